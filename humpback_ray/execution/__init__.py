"""Makes any stage resumable and visible: records, leases, progress, logs, metrics."""
