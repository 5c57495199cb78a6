//! The checks of the repository's own files, and that each check can fail.

use std::path::Path;

use super::*;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_alerts_and_the_dashboard_name_what_exists() {
    assert_eq!(wrong(repository()).unwrap(), [""; 0]);
}

fn known() -> Metrics {
    Metrics::of_source(repository()).unwrap().with_provisioner()
}

fn own() -> Files {
    files(fs::read_to_string(repository().join("docs/alerts.md")).unwrap()).unwrap()
}

/// Replaces a text in every string of a JSON value.
fn replaced(value: &Value, from: &str, to: &str) -> Value {
    let text = value.to_string();
    assert!(text.contains(from), "{from:?} is not there any more");
    serde_json::from_str(&text.replacen(from, to, 1)).unwrap()
}

#[test]
fn each_change_of_the_dashboard_is_detected() {
    let known = known();
    for (from, to, said) in [
        ("quarry_disk_silent_seconds", "quarry_disk_silence_seconds", "there is no metric quarry_disk_silence_seconds"),
        ("quarry_csi_call_seconds_bucket", "quarry_csi_call_seconds", "there is no metric"),
        ("by (program) (rate(", "by (programm) (rate(", "label programm"),
        ("{{program}}", "{{programs}}", "of its legend"),
        (
            "\"query\":\"label_values(quarry_nodes,",
            "\"query\":\"label_values(quarry_node,",
            "there is no metric quarry_node",
        ),
        (", namespace)\",\"refId", ", names)\",\"refId", "has no label names"),
        (", namespace)", ", pod)", "another definition"),
        (
            "quarry_pool_healthy{namespace=\\\"$namespace\\\"",
            "quarry_pool_healthy{namespace=\\\"$names\\\"",
            "there is no variable names",
        ),
        ("\"schemaVersion\":39", "\"schemaVersion\":\"39\"", "schemaVersion"),
        ("\"uid\":\"quarry\"", "\"uid\":\"\"", "it has no uid"),
        ("\"id\":3,", "\"id\":2,", "it has the id of"),
        ("\"type\":\"timeseries\"", "\"type\":\"graphs\"", "is not one of"),
        ("\"x\":3,", "\"x\":2,", "it lies on"),
        ("\"w\":24,", "\"w\":25,", "columns"),
        ("\"refId\":\"B\"", "\"refId\":\"A\"", "refId"),
        ("\"uid\":\"${datasource}\"", "\"uid\":\"mine\"", "data source"),
        ("\"type\":\"datasource\"", "\"type\":\"custom\"", "selects the data source"),
        ("\"type\":\"row\"", "\"type\":\"stat\"", "it has no query"),
    ] {
        let wrong = dashboard::wrong(&replaced(&own().dashboard, from, to), &known);
        assert!(wrong.iter().any(|line| line.contains(said)), "{from:?} to {to:?}: {wrong:?} does not say {said:?}");
    }
}

#[test]
fn each_change_of_the_alerts_is_detected() {
    let known = known();
    for (from, to, said) in [
        ("quarry_commands_overdue", "quarry_command_overdue", "there is no metric quarry_command_overdue"),
        ("max by (namespace, node) (quarry_copies)", "max by (namespace, host) (quarry_copies)", "label host"),
        ("{{ $labels.disk }}", "{{ $labels.disc }}", "no label disc"),
        // The controllers' series have no such label.
        ("max by (namespace) (quarry_orphan_volumes)", "max by (node) (quarry_orphan_volumes)", "label node"),
        ("QuarryDiskSilent", "QuarryDiskQuiet", "no section for the alert QuarryDiskQuiet"),
        ("QuarryDiskSilent", "QuarryDiskQuiet", "there is no alert QuarryDiskSilent"),
        ("QuarryDiskSilent", "QuarryWipeStuck", "two of that name"),
        ("0.1 # poolFree", "0.2 # poolFree", "thresholds"),
        ("\"severity\":\"critical\"", "\"severity\":\"bad\"", "severity"),
        ("\"summary\"", "\"title\"", "it has no /annotations/summary"),
    ] {
        let files = Files { alerts: replaced(&own().alerts, from, to), ..own() };
        let wrong = files.wrong(&known);
        assert!(wrong.iter().any(|line| line.contains(said)), "{from:?} to {to:?}: {wrong:?} does not say {said:?}");
    }
}

#[test]
fn promtool_gets_every_expression() {
    let rules: Value = serde_json::from_str(&expressions().unwrap()).unwrap();
    let expressions = super::rules(&rules).count();
    assert_eq!(expressions, DASHBOARD.matches("\"expr\": ").count());
    assert!(!rules.to_string().contains('$'), "a variable of Grafana is left");
}

/// What the chart renders: a DaemonSet with its PodMonitor, the alerts and the dashboard.
fn rendered() -> Value {
    let mut alerts = own().alerts;
    for rule in alerts.pointer_mut("/groups/0/rules").and_then(Value::as_array_mut).unwrap() {
        let link = format!("https://example.com#{}", text(rule, "/alert").to_lowercase());
        rule["annotations"]["runbook_url"] = Value::from(link);
    }
    alerts["groups"].as_array_mut().unwrap().truncate(1);
    let node = json!({"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"});
    json!([
        {"kind": "DaemonSet", "spec": {"template": {
            "metadata": {"labels": {"part": "node"}},
            "spec": {"containers": [{"ports": [{"name": "http"}]}]},
        }}},
        {"kind": "PodMonitor", "metadata": {"name": "m"}, "spec": {
            "selector": {"matchLabels": {"part": "node"}},
            "podMetricsEndpoints": [{"port": "http", "relabelings": [node]}],
        }},
        {"kind": "PrometheusRule", "spec": alerts},
        {"kind": "ConfigMap", "metadata": {"name": "quarry-dashboard"}, "data": {"quarry.json": DASHBOARD}},
    ])
}

fn failures(rendered: &Value) -> String {
    let mut wrong = Failures::default();
    check(&Objects(rendered.as_array().unwrap().clone()), &mut wrong);
    wrong.lines().join("\n")
}

#[test]
fn each_change_of_what_is_rendered_is_detected() {
    assert_eq!(failures(&rendered()), "");
    assert_eq!(failures(&replaced(&rendered(), "0.1 # poolFree", "0.05 # poolFree")), "", "a threshold may differ");
    for (from, to, said) in [
        ("\"matchLabels\":{\"part\":\"node\"}", "\"matchLabels\":{\"part\":\"nodes\"}", "selects pods"),
        ("\"port\":\"http\"", "\"port\":\"metrics\"", "have the port metrics"),
        ("\"targetLabel\":\"node\"", "\"targetLabel\":\"host\"", "get the label node"),
        ("quarry_disk_silent_seconds) > 60", "quarry_disk_silent_seconds) > 6", "QuarryDiskSilent is that of the file"),
        ("{{ $labels.pool }}", "<no value>", "is that of the file"),
        ("\"for\":\"5m\"", "\"for\":\"6m\"", "is that of the file"),
        ("#quarrydisksilent", "#quarrydisk", "QuarryDiskSilent links to its section"),
        ("{{program}}", "", "the dashboard is that of the file"),
    ] {
        let said_instead = failures(&replaced(&rendered(), from, to));
        assert!(said_instead.contains(said), "{from:?} to {to:?}: {said_instead:?} does not say {said:?}");
    }
}
