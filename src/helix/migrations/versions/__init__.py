"""One file a revision: its id, its predecessor, its title. The SQL lies in ../sql/."""
