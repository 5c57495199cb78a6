//! Access to manifests: objects by kind, texts by path, arguments of containers.

use serde_json::Value;

/// The objects of one file.
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    /// The objects of one kind.
    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| text(object, "/kind") == kind)
    }

    /// The object with that kind and name.
    pub(crate) fn named(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| text(object, "/kind") == kind && text(object, "/metadata/name") == name)
    }
}

/// The text at a JSON pointer, or nothing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a JSON pointer, or an empty one.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether the value at a JSON pointer equals `value`.
pub(crate) fn is(object: &Value, pointer: &str, value: impl Into<Value>) -> bool {
    object.pointer(pointer) == Some(&value.into())
}

/// The container of that name in an object with a pod template.
pub(crate) fn container<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    list(object, "/spec/template/spec/containers").iter().find(|container| text(container, "/name") == name)
}

/// The value of an argument `--name=value` of a container, or nothing.
pub(crate) fn argument<'a>(container: &'a Value, name: &str) -> &'a str {
    let value = |argument: &'a Value| argument.as_str()?.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('=');
    list(container, "/args").iter().find_map(value).unwrap_or_default()
}

/// Whether a container has exactly this argument.
pub(crate) fn has_argument(container: &Value, argument: &str) -> bool {
    list(container, "/args").iter().any(|given| given.as_str() == Some(argument))
}

/// The port at the end of an address.
pub(crate) fn port(address: &str) -> Option<u64> {
    address.rsplit_once(':')?.1.parse().ok()
}
