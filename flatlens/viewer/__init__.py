"""`flatlens view`: a server on this machine that shows the runs and sweeps of a folder. No torch."""
