"""How fast hanat is: against a shell script that does the same, and against the limit."""
