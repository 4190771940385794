"""The ground floor: clock, settings, database, errors, ids, log, money. Knows no domain."""
