"""`hanat drain`."""
