"""Doors to the tools that watch programs: Prometheus, OpenTelemetry, logs. Each is a module, imported when you want it.

- `aiopool.instrumentation.prometheus`: `PoolCollector`, `SystemCollector`
- `aiopool.instrumentation.logging`: `configure_logging`, and the parts for a configuration of your own
- `aiopool.instrumentation.opentelemetry`: `instrument` (extra `otel`)
"""
