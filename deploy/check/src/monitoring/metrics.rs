//! The metrics that the program serves, from its source, and those that the documentation names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// Metrics with their labels.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// The labels of each metric, by its name.
    by_name: BTreeMap<String, BTreeSet<String>>,
    /// The histograms among them.
    histograms: BTreeSet<String>,
    /// The metrics of the node plugins: a scrape adds the label `node` to them.
    of_nodes: BTreeSet<String>,
}

/// The labels that a scrape adds to every series.
const OF_PODS: &[&str] = &["namespace", "pod", "container", "endpoint", "job", "instance"];

/// Calls are counted with labels that are not at the place of the registration (`Metrics::call_ended` in
/// crates/transport, whose tests hold them).
const CALLS: &[(&str, &[&str])] =
    &[("quarry_csi_calls_total", &["method", "code"]), ("quarry_csi_call_seconds", &["method"])];

/// The metrics of the provisioner (`pkg/capacity` of external-provisioner) that alerts and the dashboard use.
const OF_THE_PROVISIONER: &[&str] =
    &["csistoragecapacities_desired_goal", "csistoragecapacities_desired_current", "csistoragecapacities_obsolete"];

impl Metrics {
    /// Reads the metrics that the crates of the repository register.
    ///
    /// # Errors
    /// A file cannot be read, or a metric is registered in a way that is not understood.
    pub(super) fn of_source(repository: &Path) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for path in sources(&repository.join("crates"))? {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let of_controller = path.starts_with(repository.join("crates/controller"));
            for (name, labels) in registered(text).with_context(|| path.display().to_string())? {
                if !of_controller {
                    found.of_nodes.insert(name.clone());
                }
                found.by_name.insert(name, labels);
            }
        }
        for (name, labels) in CALLS {
            found.of_nodes.insert((*name).to_owned());
            found.by_name.insert((*name).to_owned(), set(labels));
        }
        found.histograms.insert("quarry_csi_call_seconds".to_owned());
        Ok(found)
    }

    /// Adds the metrics of the pods' other containers.
    pub(super) fn with_provisioner(mut self) -> Self {
        self.by_name.extend(OF_THE_PROVISIONER.iter().map(|name| ((*name).to_owned(), BTreeSet::new())));
        self
    }

    /// All labels that the series of this name can have; `None` if there are no such series.
    pub(super) fn labels(&self, series: &str) -> Option<BTreeSet<String>> {
        let parts = [("_bucket", Some("le")), ("_sum", None), ("_count", None)];
        let of_histogram = parts.iter().find_map(|(end, label)| {
            let name = series.strip_suffix(end)?;
            self.histograms.contains(name).then_some((name, *label))
        });
        let (name, more) = of_histogram.unwrap_or((series, None));
        if of_histogram.is_none() && self.histograms.contains(name) {
            return None;
        }
        let mut labels = self.by_name.get(name)?.clone();
        labels.extend(set(OF_PODS));
        labels.extend(more.map(str::to_owned));
        if self.of_nodes.contains(name) {
            labels.insert("node".to_owned());
        }
        Some(labels)
    }

    /// How these differ from the documented ones, one per line.
    pub(super) fn compare(&self, documented: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
        let missing = self.by_name.keys().filter(|name| !documented.contains_key(*name));
        let missing = missing.map(|name| format!("the metric {name} is not in a table of docs/"));
        let differ = documented.iter().filter_map(|(name, labels)| match self.by_name.get(name) {
            None => Some(format!("docs/ has the metric {name}, which the program does not serve")),
            Some(own) if own != labels => Some(format!("{name} has the labels {own:?}; docs/ says {labels:?}")),
            Some(_) => None,
        });
        missing.chain(differ).collect()
    }

    /// For tests: these metrics, with these labels.
    #[cfg(test)]
    pub(super) fn of(metrics: &[(&str, &[&str])]) -> Self {
        let by_name = metrics.iter().map(|(name, labels)| ((*name).to_owned(), set(labels))).collect();
        Self { by_name, ..Self::default() }
    }
}

fn set(labels: &[&str]) -> BTreeSet<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

/// The metrics in the tables of a page: a row whose first cell has names such as `quarry_nodes{state}`.
pub(super) fn documented(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|name| name.starts_with("quarry_"));
    let metric = |name: &str| {
        let (name, labels) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
        (name.to_owned(), labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect())
    };
    names.map(metric).collect()
}

/// The source files below a folder, without those of tests.
fn sources(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            found.extend(sources(&path)?);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    Ok(found)
}

/// The metrics that a file registers, with the labels of their samples: `metrics.gauge("name", …)`, or a local
/// function that calls it with its own `name`, and its calls.
fn registered(text: &str) -> anyhow::Result<Vec<(String, BTreeSet<String>)>> {
    let mut found = Vec::new();
    for (method, end) in [(".gauge(", ""), (".counter(", "_total")] {
        for (at, _) in text.match_indices(method) {
            let (before, rest) = (&text[..at], &text[at + method.len()..]);
            let labels = labels(rest);
            if let Some(name) = literal(rest) {
                found.push((format!("quarry_{name}{end}"), labels));
                continue;
            }
            let function =
                before.rsplit_once(" = |name: &'static str,").and_then(|(before, _)| before.rsplit(' ').next());
            let function = function.context("a metric without a literal name")?;
            let call = format!(" {function}(");
            let names: Vec<_> = text.split(&call).skip(1).filter_map(literal).collect();
            ensure!(!names.is_empty(), "{function} registers no metric");
            found.extend(names.into_iter().map(|name| (format!("quarry_{name}{end}"), labels.clone())));
        }
    }
    Ok(found)
}

/// The text at the start, if it is a literal.
fn literal(source: &str) -> Option<&str> {
    source.trim_start().strip_prefix('"')?.split('"').next()
}

/// The labels of the samples of a registration that begins here: until the next one, or the end of the function.
fn labels(source: &str) -> BTreeSet<String> {
    let ends = [".gauge(", ".counter(", "\n    }\n", "\n}\n", "\n    };\n"];
    let end = ends.iter().filter_map(|end| source.find(end)).min().unwrap_or(source.len());
    source[..end].split(".label(").skip(1).filter_map(literal).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_read_with_their_labels() {
        let text = r#"
fn register(metrics: &Metrics) {
    let per_pool = |name: &'static str, help: &'static str, figure: fn(&PoolState) -> u64| {
        let pools = pools.clone();
        metrics.gauge(name, help, move || {
            vec![Sample::count(1).label("pool", "p")]
        });
    };
    per_pool("pool_a", "A", |pool| pool.a);
    metrics.counter(
        "b",
        "B",
        || vec![Sample::count(1).label("x", "1").label("y", "2")],
    );
    metrics.gauge("c", "C", || vec![Sample::count(1)]);
}

fn other() {
    Sample::count(1).label("z", "3");
}
"#;
        let mut found = registered(text).unwrap();
        found.sort();
        let expected = [("quarry_b_total", &["x", "y"][..]), ("quarry_c", &[]), ("quarry_pool_a", &["pool"])];
        assert_eq!(found, expected.map(|(name, labels)| (name.to_owned(), set(labels))));
        assert!(registered("metrics.gauge(NAME, \"help\", f)").is_err());
    }

    #[test]
    fn tables_are_read() {
        let page = "| `quarry_a{x,y}`, `quarry_b` | as `quarry_c` |\ntext `quarry_d`\n";
        let expected = [("quarry_a".to_owned(), set(&["x", "y"])), ("quarry_b".to_owned(), set(&[]))];
        assert_eq!(documented(page), expected.into());
    }

    #[test]
    fn differences_are_named() {
        let metrics = Metrics::of(&[("quarry_a", &["x"]), ("quarry_b", &[]), ("quarry_c", &[])]);
        let page = "| `quarry_a{y}`, `quarry_c` | |\n| `quarry_d` | |\n";
        let wrong = metrics.compare(&documented(page));
        for part in ["quarry_a has the labels", "quarry_b is not in", "quarry_d, which"] {
            assert!(wrong.iter().any(|line| line.contains(part)), "{wrong:?} does not say {part:?}");
        }
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn a_scrape_adds_labels() {
        let mut metrics = Metrics::of(&[("quarry_a", &[]), ("quarry_h", &["method"])]);
        metrics.histograms.insert("quarry_h".to_owned());
        metrics.of_nodes.insert("quarry_h".to_owned());
        let has = |series: &str, label: &str| metrics.labels(series).is_some_and(|labels| labels.contains(label));
        assert!(has("quarry_a", "pod") && !has("quarry_a", "node") && !has("quarry_a", "le"));
        assert!(has("quarry_h_bucket", "le") && has("quarry_h_sum", "node") && !has("quarry_h_sum", "le"));
        assert!(metrics.labels("quarry_h").is_none() && metrics.labels("quarry_a_sum").is_none());
    }
}
