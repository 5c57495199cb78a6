//! The registry behind `/metrics`, in OpenMetrics text.
//!
//! Every name starts with `quarry_`, which is added here. Calls are counted by [`Metrics::layer`]; everything
//! else is collected during a scrape: the owner of a figure registers a closure that returns it, so that no
//! code has to keep a metric up to date, and no metric outlives what it measures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, EncodeMetric as _, LabelSetEncoder, MetricEncoder, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::call::{CallLayer, code_name};

/// Upper bounds in seconds: a report from memory takes milliseconds, kubelet gives up after 120 s.
const SECONDS: [f64; 14] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// The registry; all clones share one registry.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    calls: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
}

/// One figure at the time of a scrape, with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: Labels,
    value: f64,
}

/// Labels in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Labels(Vec<(&'static str, String)>);

impl Sample {
    /// A figure without labels.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self { labels: Labels::default(), value }
    }

    /// A size in bytes, or a count. Exact up to 2⁵³ (8 PiB), like every number in Prometheus.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn count(value: u64) -> Self {
        Self::new(value as f64)
    }

    /// Adds a label. All samples of a metric must have the same label names.
    #[must_use]
    pub fn label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.0.push((name, value.into()));
        self
    }
}

impl Metrics {
    /// A registry that holds the metrics of calls:
    /// `quarry_csi_calls_total{method,code}` and `quarry_csi_call_seconds{method}`.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("quarry");
        let calls = Family::<Labels, Counter>::default();
        let seconds = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        registry.register("csi_calls", "CSI calls that ended, by method and gRPC code", calls.clone());
        registry.register("csi_call_seconds", "How long CSI calls took, in seconds", seconds.clone());
        Self { registry: Arc::new(Mutex::new(registry)), calls, seconds }
    }

    /// A layer for `tonic::transport::Server` that counts, times and logs every call.
    #[must_use]
    pub fn layer(&self) -> CallLayer {
        CallLayer::new(self.clone())
    }

    /// Adds figures that go up and down. `name` is without the prefix `quarry_`; the name of a size ends in
    /// `_bytes`, of a time in `_seconds`. `samples` is called at every scrape: it must be quick and must not
    /// block.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.add(name, help, Kind::Gauge, Box::new(samples));
    }

    /// Adds figures that only go up. Like [`Metrics::gauge`]; `_total` is added to the name.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        samples: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.add(name, help, Kind::Counter, Box::new(samples));
    }

    /// Adds a custom collector.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// All metrics, in the format of `/metrics` (`application/openmetrics-text; version=1.0.0`).
    ///
    /// # Errors
    /// When a collector fails.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }

    /// Records the end of a call.
    pub(crate) fn call_ended(&self, method: &str, code: Code, took: Duration) {
        // A caller controls the name of an unknown call: it must not control how many series exist.
        let method = if code == Code::Unimplemented { "other" } else { method };
        let method = ("method", method.to_owned());
        self.calls.get_or_create(&Labels(vec![method.clone(), ("code", code_name(code).to_owned())])).inc();
        self.seconds.get_or_create(&Labels(vec![method])).observe(took.as_secs_f64());
    }

    fn add(&self, name: &'static str, help: &'static str, kind: Kind, samples: Samples) {
        self.register(Box::new(Scraped { name, help, kind, samples }));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in &self.0 {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

type Samples = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// A metric that is collected during the scrape.
struct Scraped {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Samples,
}

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraped").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        let samples = (self.samples)();
        if let [Sample { labels, value }] = samples.as_slice()
            && labels.0.is_empty()
        {
            return self.kind.encode(*value, metric);
        }
        for Sample { labels, value } in &samples {
            self.kind.encode(*value, metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}

impl Kind {
    fn encode(self, value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Kind::Gauge => ConstGauge::new(value).encode(encoder),
            Kind::Counter => ConstCounter::new(value).encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closures_are_called_at_every_scrape() {
        let metrics = Metrics::new();
        let free = Arc::new(Mutex::new(1_u64 << 40));
        let seen = Arc::clone(&free);
        metrics.gauge("pool_free_bytes", "Free", move || {
            vec![Sample::count(*seen.lock()).label("pool", "a\"b"), Sample::new(0.5).label("pool", "c")]
        });
        metrics.counter("commands", "Commands run", || vec![Sample::count(3)]);
        metrics.gauge("tasks", "None now", Vec::new);

        let text = metrics.encode().unwrap();
        for line in [
            "# TYPE quarry_pool_free_bytes gauge",
            r#"quarry_pool_free_bytes{pool="a\"b"} 1099511627776.0"#,
            r#"quarry_pool_free_bytes{pool="c"} 0.5"#,
            "quarry_commands_total 3.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        *free.lock() = 7;
        assert!(metrics.encode().unwrap().contains(r#"{pool="a\"b"} 7.0"#));
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new();
        metrics.call_ended("Node/NodeStageVolume", Code::Ok, Duration::from_millis(30));
        metrics.call_ended("Node/NodeStageVolume", Code::FailedPrecondition, Duration::from_millis(30));
        metrics.call_ended("made/up", Code::Unimplemented, Duration::ZERO);
        let text = metrics.encode().unwrap();
        for line in [
            r#"quarry_csi_calls_total{method="Node/NodeStageVolume",code="OK"} 1"#,
            r#"quarry_csi_calls_total{method="Node/NodeStageVolume",code="FAILED_PRECONDITION"} 1"#,
            r#"quarry_csi_calls_total{method="other",code="UNIMPLEMENTED"} 1"#,
            r#"quarry_csi_call_seconds_bucket{le="0.05",method="Node/NodeStageVolume"} 2"#,
            r#"quarry_csi_call_seconds_count{method="Node/NodeStageVolume"} 2"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }
}
