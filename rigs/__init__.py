"""Faults done to a real Helix, with ledgers kept outside it and a planted fault as a control."""
