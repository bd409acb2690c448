"""The ground floor: what every other room stands on. Imports torch and the standard library only."""
