"""Laconic: trained models, smaller and faster, with the evidence."""
