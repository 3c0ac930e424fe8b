"""What makes the cores run for real: plan, driver loop, compute thread, engine, traces."""
