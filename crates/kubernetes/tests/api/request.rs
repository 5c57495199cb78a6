//! A request as the fake server reads it.

use std::collections::BTreeMap;

use http::{Method, Uri};
use serde_json::Value;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Without the query.
    pub(crate) path: String,
    parameters: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Call {
    pub(crate) fn of(method: &Method, uri: &Uri, body: &[u8]) -> Self {
        let query = uri.query().unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self {
            method: method.clone(),
            path: uri.path().to_owned(),
            parameters: pairs.map(|(name, value)| (decoded(name), decoded(value))).collect(),
            body: serde_json::from_slice(body).unwrap_or_default(),
        }
    }

    /// A parameter of the query; empty if it was not given.
    pub(crate) fn parameter(&self, name: &str) -> String {
        self.parameters.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn watches(&self) -> bool {
        self.parameter("watch") == "true"
    }

    /// Whether the path names a collection, not one object.
    pub(crate) fn is_list(&self) -> bool {
        let parts: Vec<&str> = self.path.trim_matches('/').split('/').collect();
        let resource = match parts.as_slice() {
            ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
            _ => &[],
        };
        matches!(resource, [_] | ["namespaces", _, _])
    }

    /// Whether the object at this path is in the collection that was asked for.
    pub(crate) fn covers(&self, path: &str) -> bool {
        path.rsplit_once('/').is_some_and(|(collection, _)| collection == self.path)
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Whether an object is what the selectors of the request ask for (`a=b` only).
pub(crate) fn matches(call: &Call, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    let by_label = |name: &str, value: &str| labels[name] == value;
    let by_field =
        |name: &str, value: &str| object.pointer(&format!("/{}", name.replace('.', "/"))) == Some(&value.into());
    let all = |selector: String, holds: &dyn Fn(&str, &str) -> bool| {
        selector.split(',').filter(|part| !part.is_empty()).all(|part| {
            let (name, value) = part.split_once('=').unwrap();
            holds(name, value)
        })
    };
    all(call.parameter("labelSelector"), &by_label) && all(call.parameter("fieldSelector"), &by_field)
}
