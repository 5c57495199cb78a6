//! The dashboard: its structure, as far as it can be checked without Grafana, and its expressions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::metrics::Metrics;
use super::promql;
use crate::objects::{list, text};

/// The version of the structure that the dashboard is written in.
const SCHEMA: u64 = 39;
/// The width of a dashboard in Grafana's grid.
const WIDTH: u64 = 24;
/// The kinds of panels that the dashboard uses. A misspelt kind is an empty panel.
const KINDS: &[&str] = &["row", "stat", "table", "timeseries"];
/// Variables that Grafana defines.
const BUILT_IN: &[&str] = &["__rate_interval"];

/// All failed checks of a dashboard.
pub(super) fn wrong(dashboard: &Value, known: &Metrics) -> Vec<String> {
    let mut wrong = Vec::new();
    let number = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
    if number(dashboard, "/schemaVersion") != Some(SCHEMA) {
        wrong.push(format!("schemaVersion is not {SCHEMA}"));
    }
    for key in ["title", "uid"] {
        if text(dashboard, &format!("/{key}")).is_empty() {
            wrong.push(format!("it has no {key}"));
        }
    }
    let variables = list(dashboard, "/templating/list");
    let names: BTreeSet<&str> = variables.iter().map(|variable| text(variable, "/name")).collect();
    let mut say =
        |subject: &str, said: Vec<String>| wrong.extend(said.into_iter().map(|line| format!("{subject}: {line}")));
    let is_source =
        |variable: &&Value| text(variable, "/type") == "datasource" && text(variable, "/query") == "prometheus";
    let source = variables.iter().find(is_source).map(|variable| format!("${{{}}}", text(variable, "/name")));
    say("variables", source.is_none().then(|| "none selects the data source".to_owned()).into_iter().collect());
    for variable in variables.iter().filter(|variable| text(variable, "/type") == "query") {
        let query = text(variable, "/query/query");
        let mut said = match label_values(query) {
            Some((selector, label)) => {
                let (mut said, labels) = promql::check(selector, known);
                said.extend((!labels.contains(label)).then(|| format!("{selector} has no label {label}")));
                said
            }
            None => vec![format!("{query} is not label_values(SELECTOR, LABEL)")],
        };
        // Grafana shows the one, and runs the other.
        said.extend(
            (text(variable, "/definition") != query).then(|| "it has another definition than query".to_owned()),
        );
        said.extend(undefined(query, &names));
        said.extend(of_source(variable, source.as_deref()));
        say(&format!("variable {}", text(variable, "/name")), said);
    }

    let panels = list(dashboard, "/panels");
    let mut ids = BTreeMap::new();
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in panels {
        let title = text(panel, "/title");
        let mut said = Vec::new();
        match number(panel, "/id") {
            None | Some(0) => said.push("it has no id".to_owned()),
            Some(id) => said.extend(ids.insert(id, title).map(|other| format!("it has the id of {other}"))),
        }
        if !KINDS.contains(&text(panel, "/type")) {
            said.push(format!("the type {:?} is not one of {KINDS:?}", text(panel, "/type")));
        }
        let side = |name: &str| number(panel, &format!("/gridPos/{name}"));
        match (side("x"), side("y"), side("w"), side("h")) {
            (Some(x), Some(y), Some(w @ 1..), Some(h @ 1..)) if x + w <= WIDTH => {
                let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
                let others: BTreeSet<&str> = cells.filter_map(|cell| taken.insert(cell, title)).collect();
                said.extend(others.into_iter().map(|other| format!("it lies on {other}")));
            }
            _ => said.push(format!("its place is not within {WIDTH} columns")),
        }
        if text(panel, "/type") != "row" {
            said.extend(targets(panel, source.as_deref(), &names, known));
        }
        say(title, said);
    }
    let rows = panels.iter().filter(|panel| text(panel, "/type") == "row").count();
    say("rows", (rows < 3).then(|| format!("{rows} instead of fleet, node, and volumes")).into_iter().collect());
    wrong
}

/// What is wrong with the queries of a panel.
fn targets(panel: &Value, source: Option<&str>, names: &BTreeSet<&str>, known: &Metrics) -> Vec<String> {
    let mut said = of_source(panel, source);
    let targets = list(panel, "/targets");
    if targets.is_empty() {
        said.push("it has no query".to_owned());
    }
    let mut ids = BTreeSet::new();
    for target in targets {
        let expression = text(target, "/expr");
        let (wrong, labels) = promql::check(expression, known);
        said.extend(wrong);
        said.extend(undefined(expression, names));
        said.extend(of_source(target, source));
        if !ids.insert(text(target, "/refId")) || text(target, "/refId").is_empty() {
            said.push("two queries have one refId, or one has none".to_owned());
        }
        let legend = text(target, "/legendFormat").split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        let unknown = legend.filter(|label| !labels.contains(*label));
        said.extend(unknown.map(|label| format!("none of its metrics has the label {label} of its legend")));
    }
    said
}

/// The expressions of all panels, with values in place of Grafana's variables.
pub(super) fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = list(dashboard, "/panels").iter().flat_map(|panel| list(panel, "/targets"));
    targets.map(|target| text(target, "/expr").replace("$__rate_interval", "5m").replace('$', "")).collect()
}

fn of_source(value: &Value, source: Option<&str>) -> Vec<String> {
    let fits = text(value, "/datasource/type") == "prometheus" && source == Some(text(value, "/datasource/uid"));
    if fits { Vec::new() } else { vec!["its data source is not the variable's".to_owned()] }
}

/// The variables in a query that the dashboard does not have.
fn undefined(query: &str, names: &BTreeSet<&str>) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let used = query.split('$').skip(1).map(name);
    let unknown = used.filter(|name| !names.contains(name.as_str()) && !BUILT_IN.contains(&name.as_str()));
    unknown.map(|name| format!("there is no variable {name}")).collect()
}

/// The parts of `label_values(SELECTOR, LABEL)`.
fn label_values(query: &str) -> Option<(&str, &str)> {
    let (selector, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(',')?;
    Some((selector, label.trim()))
}
