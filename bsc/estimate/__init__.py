"""What a config costs, before anything runs: hours, memory and disk, from shapes and a machine's rates. No torch in here."""
