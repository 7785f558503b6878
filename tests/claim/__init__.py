"""`hanat claim`: its runs, what it takes, and what clients lose while NATs come and go."""
