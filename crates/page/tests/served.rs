//! The page as a browser gets it: from a real controller, over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sample;

use std::sync::Arc;

use quarry_page::LoopbackAddress;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// The value of a header.
    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let value = values.next().unwrap_or_else(|| panic!("no {name} in {}", self.head));
        assert_eq!(values.next(), None, "{name} is there once");
        value
    }
}

/// A page of the sample fleet.
struct Page {
    address: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Page {
    async fn of(nodes: usize) -> Self {
        let view = sample::view(nodes).await;
        let listener = quarry_page::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(quarry_page::serve(listener, Arc::new(view), stop.clone()));
        Self { address, stop }
    }

    async fn send(&self, head: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}", self.address)).await
    }

    /// The HTML of a page that exists.
    async fn html(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/html; charset=utf-8"), "{path}");
        answer.body
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_that_keep_a_browser_safe() {
    let page = Page::of(12).await;
    let host = page.address;
    for request in [
        format!("GET / HTTP/1.1\r\nHost: {host}"),
        format!("GET /nodes/worker-01 HTTP/1.1\r\nHost: {host}"),
        format!("GET /nowhere HTTP/1.1\r\nHost: {host}"),
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0"),
        "GET / HTTP/1.1\r\nHost: evil.example".to_owned(),
    ] {
        let answer = page.send(&request).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        for part in ["base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'", "img-src data:"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{request}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
    }
}

#[tokio::test]
async fn only_loopback_names_are_answered() {
    let page = Page::of(12).await;
    let status = async |head: &str| page.send(head).await.status;
    for host in ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:9814", "[::1]:9814", "127.1.2.3:80"] {
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: {host}")).await, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:9814",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "192.0.2.1",
        "[2001:db8::1]",
        "",
        "0.0.0.0",
    ] {
        let answer = page.send(&format!("GET / HTTP/1.1\r\nHost: {host}")).await;
        assert!(matches!(answer.status, 400 | 403), "{host}: {}", answer.head);
        assert!(!answer.body.contains("worker"), "{host}");
    }
    assert_eq!(status("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example").await, 403);
    assert_eq!(status("GET http://evil.example/ HTTP/1.1\r\nHost: localhost").await, 403);
    assert_eq!(status("GET / HTTP/1.0").await, 403);
}

#[tokio::test]
async fn nothing_can_be_sent_to_the_page() {
    let page = Page::of(12).await;
    let host = page.address;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"] {
        for path in ["/", "/nodes/worker-01", "/volumes"] {
            let answer = page.send(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0")).await;
            assert!(matches!(answer.status, 400 | 405), "{method} {path}: {}", answer.head);
        }
    }
    let head = page.send(&format!("HEAD / HTTP/1.1\r\nHost: {host}")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn the_pages_show_the_fleet() {
    let page = Page::of(24).await;
    let fleet = page.html("/").await;
    let at = |text: &str| fleet.find(text).unwrap_or_else(|| panic!("{text} is missing in {fleet}"));
    // Findings come first.
    assert!(at("worker-12</a></b>: unreachable") < at(">Summary<") && at(">Summary<") < at(">Nodes<"), "{fleet}");
    assert_eq!(fleet.matches("<tr><th scope=\"row\"><a href=\"/nodes/worker-").count(), 24);
    assert!(page.html("/nodes/worker-10").await.contains("free, but no new volumes now"));

    let node = page.html("/nodes/worker-01").await;
    assert!(node.contains("Pool fast") && node.contains("aria-label=\"Pool fast, 1.7Ti: volumes 608Gi"), "{node}");
    assert!(node.contains("kubectl quarry disks --node worker-01"));

    let all = page.html("/volumes?q=pvc-clone").await;
    let (_, rest) = all.split_once("href=\"/volumes/v1:").expect("a link to the volume");
    let (id, _) = rest.split_once('"').unwrap();
    let volume = page.html(&format!("/volumes/v1:{id}")).await;
    assert!(volume.contains("being filled, 37 %: 150Gi of 400Gi"), "{volume}");
    assert!(volume.contains(":worker-01:pvc-database</a>"), "{volume}");
    let findings = page.html("/findings?q=pool-problem").await;
    assert!(findings.contains("1 finding<") && findings.contains("missing disk"), "{findings}");
}

#[tokio::test]
async fn a_name_full_of_html_stays_text() {
    let page = Page::of(12).await;
    for path in [
        "/volumes",
        "/nodes/worker-01",
        "/volumes?q=%22%3E%3Cscript%3E",
        "/nodes/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ] {
        let body = page.get(path).await.body;
        assert!(!body.to_lowercase().contains("<script"), "{path}: {body}");
        assert!(body.contains("&lt;script&gt;"), "{path} shows the name: {body}");
    }
    let body = page.html("/nodes/worker-01").await;
    assert!(body.contains("vg-&lt;slow&gt;") && !body.contains("<slow>"), "{body}");
    assert!(body.contains("y=&quot;") && !body.contains(sample::ATTRIBUTE) && !body.contains(sample::SCRIPT), "{body}");
}

#[tokio::test]
async fn what_does_not_exist_is_404() {
    let page = Page::of(12).await;
    for path in [
        "/nowhere",
        "/nodes/worker-99",
        "/nodes/..%2F..",
        "/volumes/v1:aaaaaaaaaa:worker-01:none",
        "/volumes/v1:aaaaaaaaaa:worker-99:none",
        "/volumes/none",
        "/favicon.ico",
    ] {
        let answer = page.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("<h1>Not found</h1>"), "{path}");
    }
    // A path that is no text.
    assert_eq!(page.get("/nodes/%ff").await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_nodes_are_shown_a_hundred_at_a_time() {
    let page = Page::of(5000).await;
    for path in ["/", "/?page=50&sort=-fill", "/?state=up&sort=free", "/volumes?page=17"] {
        let body = page.html(path).await;
        let rows = body.matches("<tr><th scope=\"row\"><a href=\"/").count();
        assert_eq!(rows, 100, "{path}");
        assert!(body.len() < 128 << 10, "{path} has {} bytes", body.len());
    }
    let last = page.html("/?page=50").await;
    assert!(last.contains("4901 to 5000 of 5000 nodes") && last.contains("worker-5000"), "{last}");
    // Each node is `up for 0 s`, and a second may pass between two answers.
    let ageless = |body: &str| {
        let parts = body.split(" for ").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        parts.collect::<Vec<_>>().join(" for ")
    };
    let past = page.html("/?page=51").await;
    assert!(ageless(&past) == ageless(&last), "past the end, the last page is shown: {past}");
    let volumes = page.html("/volumes?page=99999").await;
    assert!(volumes.matches("<tr><th scope=\"row\"><a href=\"/volumes/").count() > 0, "{volumes}");
}

#[test]
fn only_loopback_addresses_are_accepted() {
    for address in ["127.0.0.1:9814", "[::1]:0", "127.8.8.8:1"] {
        assert_eq!(address.parse::<LoopbackAddress>().unwrap().to_string(), address);
    }
    for address in ["0.0.0.0:9814", "[::]:9814", "192.0.2.1:9814", "localhost:9814", "127.0.0.1", ":9814", ""] {
        let error = address.parse::<LoopbackAddress>().unwrap_err().to_string();
        assert!(error.contains("loopback address"), "{error}");
    }
}
