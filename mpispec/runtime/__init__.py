"""One job: joining it, plan, loading, measuring, the driver loop and its workers, the engine, traces."""
