"""`hanat watch`."""
