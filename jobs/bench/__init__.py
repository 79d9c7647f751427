"""`longtake bench`: measurements of what longtake promises. A bench lives in the module of its name."""
