//! Figures for Prometheus: of HTTP, counted here, and of the engine, asked when somebody looks.

use std::{fmt, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use caisson_engine::{BUCKETS, Engine, Histogram as Counts};
use http::{StatusCode, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    app::App,
    error::{ApiError, ApiResult},
};

/// A route of the table and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    /// As in the table, never as asked for: clients must not be able to make new series.
    route: String,
    status: u16,
}

type Durations = Family<Answer, Histogram, fn() -> Histogram>;

/// The registry and what is counted here.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    answers: Family<Answer, Counter>,
    durations: Durations,
}

impl Metrics {
    pub(crate) fn new(engine: Engine) -> Self {
        let answers = Family::<Answer, Counter>::default();
        let durations = Durations::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut registry = Registry::with_prefix("caisson");
        registry.register("http_requests", "Requests answered, by route and status", answers.clone());
        let help = "Time until the head of the answer was ready, by route and status";
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, durations.clone());
        registry.register_collector(Box::new(EngineFigures(engine)));
        Self { registry, answers, durations }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: &str, status: StatusCode, after: Duration) {
        let labels = Answer { route: route.to_owned(), status: status.as_u16() };
        self.answers.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(after.as_secs_f64());
    }

    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The engine's figures at the moment of asking.
#[derive(Debug)]
struct EngineFigures(Engine);

impl Collector for EngineFigures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let seen = self.0.metrics();
        let sandboxes = seen.sandboxes.iter().map(|(state, count)| ("state", state.as_str(), *count));
        gauges(&mut encoder, "sandboxes", "Sandboxes now, by state", sandboxes)?;
        let ended = seen.ended.iter().map(|(reason, count)| ("reason", reason.as_str(), *count));
        counters(&mut encoder, "sandboxes_ended", "Sandboxes that ended, by reason", ended)?;
        counter(&mut encoder, "launches", "Sandboxes whose agent answered", seen.launches)?;
        counter(&mut encoder, "launch_failures", "Sandboxes that did not come up", seen.launch_failures)?;
        histogram(&mut encoder, "launch_duration", "Time from the request until the agent answered", &seen.launch_seconds)?;
        let (running, finished): (Vec<_>, Vec<_>) =
            seen.executions.iter().partition(|(status, _)| *status == caisson_core::ExecutionStatus::Running);
        let running = running.iter().map(|(_, count)| *count).sum::<u64>();
        gauge(&mut encoder, "executions_running", "Executions that run now", running)?;
        let finished = finished.into_iter().map(|(status, count)| ("status", status.as_str(), count));
        counters(&mut encoder, "executions_finished", "Executions that ended, by status", finished)?;
        histogram(&mut encoder, "execution_duration", "Time from the start of an execution to its end", &seen.execution_seconds)?;
        counter(&mut encoder, "output_bytes", "Bytes written by programs on both streams", seen.output_bytes)?;
        let out = &seen.egress;
        gauge(&mut encoder, "egress_connections", "Connections out of sandboxes that are open", out.open)?;
        let decisions = [("outcome", "allowed", out.allowed), ("outcome", "refused", out.refused)];
        counters(&mut encoder, "egress_decisions", "Connections and names that sandboxes asked for, by outcome", decisions.into_iter())?;
        let bytes = [("direction", "out", out.bytes_out), ("direction", "in", out.bytes_in)];
        counters(&mut encoder, "egress_bytes", "Bytes out of sandboxes and into them, by direction", bytes.into_iter())?;
        gauge(&mut encoder, "queue_waiting", "Requests that wait for room for a sandbox", seen.waiting)?;
        gauge(&mut encoder, "pool_sandboxes", "Sandboxes that nobody owns, those coming up and going down included", seen.pooled)?;
        let pool = &seen.pool;
        gauge(&mut encoder, "pool_warm", "Warm sandboxes that wait for somebody", pool.warm)?;
        gauge(&mut encoder, "pool_target", "Warm sandboxes that what was asked for lately needs", pool.target)?;
        counter(&mut encoder, "pool_hits", "Requests that got a warm sandbox", pool.hits)?;
        counter(&mut encoder, "pool_ready", "Programs that a ready interpreter went on with", pool.ready)?;
        counter(&mut encoder, "pool_misses", "Requests that could have had a warm sandbox and found none that fits", pool.misses)?;
        counter(&mut encoder, "pool_made", "Warm sandboxes made", pool.made)?;
        counter(&mut encoder, "pool_failed", "Warm sandboxes that could not be made", pool.failed)?;
        counter(&mut encoder, "pool_dropped", "Warm sandboxes that ended without anybody having had them", pool.dropped)
    }
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn counters<'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'static str, &'a str, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (key, label, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&[(key, label)])?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn gauges<'a>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'static str, &'a str, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (key, label, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&[(key, label)])?)?;
    }
    Ok(())
}

fn histogram(encoder: &mut DescriptorEncoder, name: &str, help: &str, counts: &Counts) -> fmt::Result {
    let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.buckets).collect();
    let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    metric.encode_histogram::<[(&str, &str); 0]>(counts.sum_seconds, counts.count, &buckets, None)
}

/// Figures for Prometheus (OpenMetrics text).
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, description = "OpenMetrics text. Needs a key, except from programs on the server's own machine that ask it directly", content_type = "application/openmetrics-text"),
))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> ApiResult<Response> {
    let text = app.metrics.text().map_err(|_| ApiError::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
