//! A Kubernetes API server in memory, as far as Quarry uses one: versions and conflicts, lists in pages, watches that
//! resume or fail because it is too late, and all failures in between. It runs on tokio's clock, so with that
//! clock paused a test of many minutes takes no time and always takes the same course.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use quarry_kubernetes::Connection;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::answer::{Answer, done, line, refusal, status, stream};
use crate::request::{Call, matches};

/// The namespace of everything that has one.
pub(crate) const NAMESPACE: &str = "quarry";

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fault {
    /// How long it takes to arrive.
    pub(crate) before: Duration,
    /// How long its answer takes.
    pub(crate) after: Duration,
    /// It is refused with this status, and does nothing.
    pub(crate) refused: Option<u16>,
    /// It does what it should, but no answer arrives.
    pub(crate) answer_lost: bool,
}

type Plan = Box<dyn FnMut(&Call) -> Fault + Send>;

/// One change, for watches.
#[derive(Clone)]
struct Change {
    version: u64,
    kind: &'static str,
    path: String,
    object: Value,
}

#[derive(Default)]
struct World {
    version: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<Change>,
    /// Watches from before this version are refused, of collections whose path ends like this.
    compacted: (u64, String),
    /// 410 as the answer's status, rather than as an event in the watch.
    gone_by_status: bool,
    down: bool,
    /// Watches that are open now deliver nothing more, and do not end.
    frozen: u64,
    plan: Option<Plan>,
    calls: Vec<Call>,
}

/// Something that open watches must look at: the version, and how often they were all cut.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Pulse {
    version: u64,
    cuts: u64,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    pulse: Arc<watch::Sender<Pulse>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self { world: Arc::default(), pulse: Arc::new(watch::Sender::new(Pulse::default())) }
    }

    /// A connection for the pod of that name.
    pub(crate) fn connection(&self, pod: &str) -> Connection {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let fake = fake.clone();
            async move { fake.serve(request).await }
        });
        Connection {
            client: kube::Client::new(service, NAMESPACE),
            namespace: NAMESPACE.to_owned(),
            pod: pod.to_owned(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    /// Decides what happens to each request from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.with(|world| world.plan = Some(Box::new(plan)));
    }

    /// Requests are served without faults from now on.
    pub(crate) fn no_plan(&self) {
        self.with(|world| world.plan = None);
    }

    /// The API cannot be reached; open watches break.
    pub(crate) fn down(&self) {
        self.with(|world| world.down = true);
        self.cut();
    }

    pub(crate) fn up(&self) {
        self.with(|world| world.down = false);
    }

    /// All open watches end.
    pub(crate) fn cut(&self) {
        self.pulse.send_modify(|pulse| pulse.cuts += 1);
    }

    /// Open watches stay open, but nothing arrives any more: a connection that died without a word.
    pub(crate) fn freeze_watches(&self) {
        let cuts = self.pulse.borrow().cuts;
        self.with(|world| world.frozen = cuts + 1);
    }

    /// Watches end, and those of the collection cannot be resumed from where they were (all, if it is empty).
    pub(crate) fn forget_history(&self, collection: &str, gone_by_status: bool) {
        self.with(|world| {
            world.version += 1;
            world.compacted = (world.version, collection.to_owned());
            world.gone_by_status = gone_by_status;
        });
        self.cut();
    }

    /// Creates or changes an object, like another client.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.with(|world| world.put(path, object));
        self.announce();
    }

    /// Deletes an object, like another client.
    pub(crate) fn delete(&self, path: &str) {
        self.with(|world| world.remove(path));
        self.announce();
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.with(|world| world.objects.get(path).cloned())
    }

    /// All objects whose path begins like that.
    pub(crate) fn all(&self, prefix: &str) -> Vec<Value> {
        self.with(|world| {
            world
                .objects
                .iter()
                .filter(|(path, _)| path.starts_with(prefix))
                .map(|(_, object)| object.clone())
                .collect()
        })
    }

    /// How many requests of that kind came.
    pub(crate) fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.with(|world| world.calls.iter().filter(|call| wanted(call)).count())
    }

    fn announce(&self) {
        let version = self.with(|world| world.version);
        self.pulse.send_modify(|pulse| pulse.version = version);
    }

    async fn serve(self, request: Request<kube::client::Body>) -> Result<Response<Answer>, tower::BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let call = Call::of(&parts.method, &parts.uri, &body);
        let fault = self.with(|world| {
            world.calls.push(call.clone());
            world.plan.as_mut().map_or(Fault::default(), |plan| plan(&call))
        });
        tokio::time::sleep(fault.before).await;
        if self.with(|world| world.down) {
            return Err("connection refused".into());
        }
        let answer = match fault.refused {
            Some(code) => refusal(code, "as the test asked"),
            None if call.watches() => self.watch(&call),
            None => {
                let answer = self.with(|world| world.answer(&call));
                self.announce();
                answer
            }
        };
        tokio::time::sleep(fault.after).await;
        if fault.answer_lost { Err("connection reset".into()) } else { Ok(answer) }
    }

    fn watch(&self, call: &Call) -> Response<Answer> {
        let mut from: u64 = call.parameter("resourceVersion").parse().unwrap();
        let compacted = self.with(|world| {
            let (version, collection) = &world.compacted;
            (from < *version && call.path.ends_with(collection)).then_some(world.gone_by_status)
        });
        if compacted == Some(true) {
            return refusal(410, "too old resource version");
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        if compacted.is_some() {
            let _ = sender.send(Ok(line("ERROR", &status(410, "too old resource version"))));
            return stream(receiver);
        }
        let seconds: u64 = call.parameter("timeoutSeconds").parse().unwrap();
        let (fake, call, mut pulse) = (self.clone(), call.clone(), self.pulse.subscribe());
        tokio::spawn(async move {
            let cuts = pulse.borrow_and_update().cuts;
            let end = tokio::time::sleep(Duration::from_secs(seconds));
            tokio::pin!(end);
            loop {
                if fake.with(|world| world.frozen > cuts) {
                    // The client must notice by itself.
                    sender.closed().await;
                    return;
                }
                let changes: Vec<Change> = fake.with(|world| {
                    let changes = world.history.iter().filter(|change| change.version > from);
                    let changes = changes.filter(|change| call.covers(&change.path) && matches(&call, &change.object));
                    changes.cloned().collect()
                });
                for change in changes {
                    from = change.version;
                    if sender.send(Ok(line(change.kind, &change.object))).is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    changed = pulse.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if pulse.borrow_and_update().cuts != cuts {
                            if fake.with(|world| world.down) {
                                let _ = sender.send(Err(io::ErrorKind::ConnectionReset.into()));
                            }
                            return;
                        }
                    }
                    () = &mut end => {
                        let version = fake.with(|world| world.version).to_string();
                        let kind = json!({"kind": "Any", "apiVersion": "v1", "metadata": {"resourceVersion": version}});
                        let _ = sender.send(Ok(line("BOOKMARK", &kind)));
                        return;
                    }
                }
            }
        });
        stream(receiver)
    }
}

impl World {
    fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        let kind = if self.objects.insert(path.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push(Change { version: self.version, kind, path: path.to_owned(), object });
    }

    fn answer(&mut self, call: &Call) -> Response<Answer> {
        let path = call.path.clone();
        match call.method {
            Method::GET if call.is_list() => self.list(call),
            Method::GET => match self.objects.get(&path) {
                Some(object) => done(object),
                None => refusal(404, &format!("{path} not found")),
            },
            Method::POST => {
                let Some(name) = call.body["metadata"]["name"].as_str() else { return refusal(422, "no name") };
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return refusal(409, &format!("{path} already exists"));
                }
                self.store(&path, call.body.clone())
            }
            Method::PUT => {
                let Some(known) = self.objects.get(&path) else { return refusal(404, &format!("{path} not found")) };
                let based_on = &call.body["metadata"]["resourceVersion"];
                if !based_on.is_null() && *based_on != known["metadata"]["resourceVersion"] {
                    return refusal(409, &format!("{path}: the object has been modified"));
                }
                if known["type"] != call.body["type"] {
                    return refusal(422, "type: field is immutable");
                }
                self.store(&path, call.body.clone())
            }
            Method::DELETE => {
                let Some(known) = self.objects.get(&path) else { return refusal(404, &format!("{path} not found")) };
                let wanted = &call.body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != known["metadata"]["uid"] {
                    return refusal(409, &format!("{path}: the UID in the precondition does not match"));
                }
                let object = known.clone();
                self.remove(&path);
                done(&object)
            }
            _ => refusal(405, "not of this world"),
        }
    }

    fn remove(&mut self, path: &str) {
        let Some(mut object) = self.objects.remove(path) else { panic!("{path} does not exist") };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let version = self.version;
        self.history.push(Change { version, kind: "DELETED", path: path.to_owned(), object });
    }

    fn store(&mut self, path: &str, object: Value) -> Response<Answer> {
        let is_tls = object["type"] == "kubernetes.io/tls";
        if is_tls && ["tls.crt", "tls.key"].iter().any(|file| object["data"][*file].is_null()) {
            return refusal(422, "data: tls.crt and tls.key are required");
        }
        self.put(path, object);
        self.objects.get(path).map_or_else(|| refusal(500, "lost"), done)
    }

    fn list(&self, call: &Call) -> Response<Answer> {
        let limit: usize = call.parameter("limit").parse().unwrap_or(usize::MAX);
        let after = call.parameter("continue");
        let mut found =
            self.objects.iter().filter(|(path, object)| call.covers(path) && **path > after && matches(call, object));
        let page: Vec<(&String, &Value)> = found.by_ref().take(limit).collect();
        let next = if found.next().is_some() { page.last().map_or("", |(path, _)| path.as_str()) } else { "" };
        let items: Vec<&Value> = page.iter().map(|(_, object)| *object).collect();
        let version = self.version.to_string();
        done(&json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": version, "continue": next},
            "items": items,
        }))
    }
}
