"""What the units of a network do while it runs: taps (`probe`), counts (`stats`), judgement (`verdict`), `record`."""
