"""Tasks that see plain values: `ana.Executor` ships what is large by reference, `ana.unwrap` takes references."""
