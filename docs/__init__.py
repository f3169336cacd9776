"""Documentation, and the generator of those reference pages that follow from the code."""
