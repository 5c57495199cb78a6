//! Checks which pods may connect to which, if there are network policies.

use serde_json::Value;

use crate::installation::Failures;
use crate::objects::{Objects, is, list, text};

pub(crate) fn check(objects: &Objects, controller: &Value, wrong: &mut Failures) {
    if objects.of("NetworkPolicy").next().is_none() {
        return;
    }
    let selected = |policy: &Value, object: &Value| {
        let labels = object.pointer("/spec/template/metadata/labels");
        let selector = policy.pointer("/spec/podSelector/matchLabels").and_then(Value::as_object);
        selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
    };
    for group in objects.of("DaemonSet") {
        let mut policies = objects.of("NetworkPolicy").filter(|policy| selected(policy, group));
        let (Some(policy), None) = (policies.next(), policies.next()) else {
            wrong.must("each node plugin has one policy", false);
            continue;
        };
        let closed =
            is(policy, "/spec/policyTypes", vec!["Ingress", "Egress"]) && list(policy, "/spec/egress").is_empty();
        wrong.must("the node plugin makes no connections", closed);
        let agents: Vec<&Value> = list(policy, "/spec/ingress").iter().filter(|rule| names(rule, "agent")).collect();
        let from = |rule: &&Value| {
            let from = list(rule, "/from");
            let labels = from.first().and_then(|peer| peer.pointer("/podSelector/matchLabels"));
            from.len() == 1 && labels == controller.pointer("/spec/selector/matchLabels")
        };
        wrong.must("only the controllers reach the agents", agents.len() == 1 && agents.iter().all(from));
        let open = list(policy, "/spec/ingress")
            .iter()
            .any(|rule| list(rule, "/ports").is_empty() || list(rule, "/from").is_empty());
        wrong.must("no rule is open to all", !open);
    }
    let Some(policy) = objects.of("NetworkPolicy").find(|policy| selected(policy, controller)) else {
        wrong.must("the controller has a policy", false);
        return;
    };
    let ports =
        list(controller, "/spec/template/spec/containers").iter().flat_map(|container| list(container, "/ports"));
    let mut ports = ports.map(|port| text(port, "/name"));
    let rules = list(policy, "/spec/ingress");
    wrong.must(
        "the controller's metrics can be read in all its containers, or in none",
        rules.is_empty() || ports.all(|port| rules.iter().any(|rule| names(rule, port))),
    );
}

/// Whether a rule names this port.
fn names(rule: &Value, port: &str) -> bool {
    list(rule, "/ports").iter().any(|given| text(given, "/port") == port)
}
