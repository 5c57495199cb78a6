//! Alerts and dashboard: what they name exists, and the chart renders them as they are in its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use self::metrics::{Metrics, documented};
use crate::installation::Failures;
use crate::objects::{Objects, is, list, text};

mod dashboard;
mod metrics;
mod promql;
#[cfg(test)]
mod tests;

/// The files of the chart.
const ALERTS: &str = include_str!("../../../chart/files/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../chart/files/dashboard.json");
const VALUES: &str = include_str!("../../../chart/values.yaml");

/// The files that name metrics and alerts.
struct Files {
    alerts: Value,
    dashboard: Value,
    values: Value,
    /// docs/alerts.md.
    runbooks: String,
}

/// All failed checks of the metrics' documentation, the alerts and the dashboard of a repository, one per line.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn wrong(repository: &Path) -> anyhow::Result<Vec<String>> {
    let read = |page: &str| {
        let path = repository.join("docs").join(page);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let metrics = Metrics::of_source(repository)?;
    let mut tables = documented(&read("pools.md")?);
    tables.extend(documented(&read("controller.md")?));
    let mut wrong = metrics.compare(&tables);
    wrong.extend(files(read("alerts.md")?)?.wrong(&metrics.with_provisioner()));
    Ok(wrong)
}

fn files(runbooks: String) -> anyhow::Result<Files> {
    Ok(Files {
        alerts: serde_saphyr::from_str(ALERTS).context("alerts.yaml")?,
        dashboard: serde_json::from_str(DASHBOARD).context("dashboard.json")?,
        values: serde_saphyr::from_str(VALUES).context("values.yaml")?,
        runbooks,
    })
}

/// The dashboard's expressions as a rule file, for promtool.
///
/// # Errors
/// The dashboard is not JSON.
pub(crate) fn expressions() -> anyhow::Result<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).context("dashboard.json")?;
    let rules = dashboard::expressions(&dashboard).into_iter().enumerate();
    let rules: Vec<_> =
        rules.map(|(at, expression)| json!({"record": format!("panel_{at}"), "expr": expression})).collect();
    Ok(json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string())
}

impl Files {
    fn wrong(&self, known: &Metrics) -> Vec<String> {
        let mut wrong: Vec<String> =
            dashboard::wrong(&self.dashboard, known).into_iter().map(|line| format!("dashboard: {line}")).collect();
        let mut names = BTreeSet::new();
        let mut defaults = BTreeMap::new();
        for rule in rules(&self.alerts) {
            let name = text(rule, "/alert");
            let mut say = |line: String| wrong.push(format!("alert {name}: {line}"));
            if !names.insert(name) {
                say("there are two of that name".to_owned());
            }
            let expression = text(rule, "/expr");
            let (said, labels) = promql::check(expression, known);
            said.into_iter().for_each(&mut say);
            for part in ["/annotations/summary", "/annotations/description"] {
                let shown = text(rule, part);
                if shown.is_empty() {
                    say(format!("it has no {part}"));
                }
                let used = shown.split("$labels.").skip(1).filter_map(|rest| rest.split([' ', '}']).next());
                used.filter(|label| !labels.contains(*label))
                    .for_each(|label| say(format!("{part}: no label {label}")));
            }
            if !["warning", "critical"].contains(&text(rule, "/labels/severity")) {
                say("its severity is neither warning nor critical".to_owned());
            }
            for line in expression.lines() {
                if let Some((before, name)) = line.split_once(" # ") {
                    defaults.insert(name.to_owned(), before.rsplit(' ').next().unwrap_or_default().to_owned());
                }
            }
        }
        let thresholds = self.values.pointer("/monitoring/alerts/thresholds").and_then(Value::as_object);
        let thresholds =
            thresholds.into_iter().flatten().map(|(name, value)| (name.clone(), value.to_string())).collect();
        if defaults != thresholds {
            wrong.push(format!("alerts.yaml has the thresholds {defaults:?}, and values.yaml {thresholds:?}"));
        }
        let sections: BTreeSet<&str> =
            self.runbooks.lines().filter_map(|line| line.strip_prefix("## Quarry")).collect();
        let short = |name: &&str| name.trim_start_matches("Quarry").to_owned();
        let missing = names.iter().filter(|name| !sections.contains(short(name).as_str()));
        wrong.extend(missing.map(|name| format!("docs/alerts.md has no section for the alert {name}")));
        let superfluous = sections.iter().filter(|section| !names.contains(format!("Quarry{section}").as_str()));
        wrong.extend(superfluous.map(|section| format!("docs/alerts.md: there is no alert Quarry{section}")));
        wrong
    }
}

/// The rules of a rule file, or of the `spec` of a PrometheusRule.
fn rules(file: &Value) -> impl Iterator<Item = &Value> {
    list(file, "/groups").iter().flat_map(|group| list(group, "/rules"))
}

/// Checks of what the chart renders, if it renders any of it.
pub(crate) fn check(objects: &Objects, wrong: &mut Failures) {
    for monitor in objects.of("PodMonitor") {
        let name = text(monitor, "/metadata/name");
        let selector = monitor.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let selects = |workload: &&Value| {
            let labels = workload.pointer("/spec/template/metadata/labels");
            let fits = |(key, value): (&String, &Value)| labels.and_then(|labels| labels.get(key)) == Some(value);
            selector.is_some_and(|selector| selector.iter().all(fits))
        };
        let selected: Vec<&Value> = objects.of("Deployment").chain(objects.of("DaemonSet")).filter(selects).collect();
        wrong.must(&format!("PodMonitor {name} selects pods"), !selected.is_empty());
        let endpoints = list(monitor, "/spec/podMetricsEndpoints");
        for endpoint in endpoints {
            let port = text(endpoint, "/port");
            let containers = |workload: &Value| list(workload, "/spec/template/spec/containers").to_vec();
            let has = |workload: &&Value| {
                containers(workload).iter().flat_map(|one| list(one, "/ports")).any(|one| text(one, "/name") == port)
            };
            wrong.must(&format!("PodMonitor {name}: the pods have the port {port}"), selected.iter().all(has));
        }
        let nodes = selected.iter().any(|workload| text(workload, "/kind") == "DaemonSet");
        let sets_node = |endpoint: &Value| {
            list(endpoint, "/relabelings").iter().any(|rule| {
                text(rule, "/targetLabel") == "node"
                    && is(rule, "/sourceLabels", vec!["__meta_kubernetes_pod_node_name"])
            })
        };
        wrong.must(
            &format!("PodMonitor {name}: the series of node plugins, and only these, get the label node"),
            endpoints.iter().all(|endpoint| sets_node(endpoint) == nodes),
        );
    }
    let file: Value = serde_saphyr::from_str(ALERTS).unwrap_or_default();
    for rendered in objects.of("PrometheusRule").filter_map(|rule| rule.pointer("/spec")) {
        for rule in rules(rendered) {
            let name = text(rule, "/alert");
            let original = rules(&file).find(|original| text(original, "/alert") == name);
            wrong.must(&format!("alert {name} is that of the file"), original.is_some_and(|file| same(rule, file)));
            let link = text(rule, "/annotations/runbook_url");
            wrong.must(
                &format!("alert {name} links to its section"),
                link.ends_with(&format!("#{}", name.to_lowercase())),
            );
        }
    }
    for map in objects.of("ConfigMap").filter(|map| text(map, "/metadata/name").ends_with("-dashboard")) {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        let rendered = parsed(text(map, "/data/quarry.json"));
        wrong.must("the dashboard is that of the file", rendered.is_some() && rendered == parsed(DASHBOARD));
    }
}

/// Whether a rendered alert is that of the file, apart from its thresholds and what the values add.
fn same(rendered: &Value, file: &Value) -> bool {
    // The number before the name of a threshold.
    let line = |line: &str| match line.split_once(" # ") {
        Some((before, name)) => format!("{} # {name}", before.rsplit_once(' ').map_or("", |(start, _)| start)),
        None => line.to_owned(),
    };
    let expression = |rule: &Value| text(rule, "/expr").lines().map(line).collect::<Vec<_>>();
    let annotations =
        |rule: &Value| ["summary", "description"].map(|key| text(rule, &format!("/annotations/{key}")).to_owned());
    expression(rendered) == expression(file)
        && annotations(rendered) == annotations(file)
        && rendered.get("for") == file.get("for")
}
