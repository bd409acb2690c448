"""What lies in `outside` is a package of somebody else: it is collected by nobody, and found only by those who are given its path."""

collect_ignore = ["outside"]
