//! The findings of `quarry doctor`.

use std::collections::BTreeMap;

use maud::{Markup, html};
use quarry_proto::view::v2;
use quarry_volume::plural;

use super::{Part, form, frame, pages, range, sentence, text};
use crate::url::{Paging, Query, node_path};

/// So many findings are on the page of the fleet. The most severe come first.
const FIRST: usize = 5;

/// The page of all findings.
pub(crate) fn findings(diagnosis: &v2::DiagnoseResponse, query: &Query) -> Markup {
    let search = query.search.to_lowercase();
    let found: Vec<&v2::Finding> = diagnosis
        .findings
        .iter()
        .filter(|finding| {
            [&finding.check, &finding.subject, &finding.problem].iter().any(|text| Query::finds(&search, text))
        })
        .collect();
    let paging = Paging::new(query.page, found.len());
    let shown = paging.of(&found);
    frame(
        "Findings",
        Part::Findings,
        &html! {
            p { (count(diagnosis)) ". These are the findings of " code { "quarry doctor" } ", the most severe first." }
            (form("/findings", query, "Text in the finding", &html! {}))
            p role="status" { (range(paging, shown.len(), "finding")) }
            (list(shown.iter().copied()))
            (pages("/findings", query, paging, "findings"))
        },
    )
}

/// The first findings, for the page of the fleet.
pub(super) fn first(diagnosis: &v2::DiagnoseResponse) -> Markup {
    html! {
        p { (count(diagnosis)) "." }
        (list(diagnosis.findings.iter().take(FIRST)))
        @if diagnosis.findings.len() > FIRST {
            p { a href="/findings" { "All " (diagnosis.findings.len()) " findings" } }
        }
    }
}

/// A list of findings.
pub(super) fn list<'a>(findings: impl Iterator<Item = &'a v2::Finding>) -> Markup {
    let mut findings = findings.peekable();
    html! {
        @if findings.peek().is_some() {
            ul.findings {
                @for finding in findings {
                    li class=(level(finding.level()).1) {
                        p {
                            strong.level { (level(finding.level()).0) } " "
                            (subject(&finding.subject)) ": " (sentence(&finding.problem))
                        }
                        p.advice { "What to do: " (sentence(&finding.advice)) " " span.check { "(" (text(&finding.check)) ")" } }
                    }
                }
            }
        }
    }
}

/// `2 errors, 1 warning, 3 notes`.
fn count(diagnosis: &v2::DiagnoseResponse) -> String {
    let count = |of: v2::Level| diagnosis.findings.iter().filter(|finding| finding.level() == of).count();
    let (errors, warnings, notes) = (count(v2::Level::Error), count(v2::Level::Warning), count(v2::Level::Note));
    let found = match (errors, warnings) {
        (0, 0) => "No problem found".to_owned(),
        _ => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    };
    if notes == 0 { found } else { format!("{found}, {}", plural(notes, "note")) }
}

/// A level in words, and its class in the stylesheet.
fn level(level: v2::Level) -> (&'static str, &'static str) {
    match level {
        v2::Level::Error => ("Error", "error"),
        v2::Level::Warning => ("Warning", "warning"),
        v2::Level::Note => ("Note", "note"),
        v2::Level::Unknown => ("Finding", "note"),
    }
}

/// The subject of a finding, with a link to its node if it names one.
fn subject(given: &str) -> Markup {
    html! {
        @match named_node(given) {
            Some((before, node)) => { b { (text(before)) "node " a href=(node_path(node)) { (text(node)) } } }
            None => { b { (text(given)) } }
        }
    }
}

/// The node that the subject of a finding ends with: `pool fast on node worker-1`; and the text before it.
fn named_node(subject: &str) -> Option<(&str, &str)> {
    let (before, node) = subject.rsplit_once("node ")?;
    let begins = before.is_empty() || before.ends_with(' ');
    (begins && !node.is_empty() && !node.contains([' ', ',', ':'])).then_some((before, node))
}

/// The findings about this node.
pub(super) fn of_node<'a>(diagnosis: &'a v2::DiagnoseResponse, node: &str) -> impl Iterator<Item = &'a v2::Finding> {
    diagnosis
        .findings
        .iter()
        .filter(move |finding| named_node(&finding.subject).is_some_and(|(_, named)| named == node))
}

/// Errors and warnings of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) errors: usize,
    pub(super) warnings: usize,
}

/// Errors and warnings by node.
pub(super) fn by_node(diagnosis: &v2::DiagnoseResponse) -> BTreeMap<&str, Counts> {
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for finding in &diagnosis.findings {
        let Some((_, node)) = named_node(&finding.subject) else { continue };
        match finding.level() {
            v2::Level::Error => counts.entry(node).or_default().errors += 1,
            v2::Level::Warning => counts.entry(node).or_default().warnings += 1,
            v2::Level::Note | v2::Level::Unknown => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_names_at_most_one_node() {
        assert_eq!(named_node("node worker-1"), Some(("", "worker-1")));
        assert_eq!(named_node("3 volumes in pool a on node n.example"), Some(("3 volumes in pool a on ", "n.example")));
        for subject in ["", "node ", "2 nodes: a, b", "controller", "node a: b", "pool node on nodes", "supernode a"] {
            assert_eq!(named_node(subject), None, "{subject:?}");
        }
    }
}
