"""Study files that `hybrid run NAME` finds by name."""
