"""The table of a run of ROAR and KAR, and what it says, for pages."""
