"""How fast this machine trains, stylizes, aligns and evaluates, and how much memory it takes."""
