//! The pages as HTML: pure functions over plain data.
//!
//! maud escapes every text and every attribute. What comes from elsewhere (names, problems) also passes [`text`], so that
//! control characters are visible.

mod bars;
mod findings;
mod fleet;
mod node;
#[cfg(test)]
mod tests;
mod volume;
mod volumes;

use std::borrow::Cow;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use quarry_volume::{plural, printable};

pub(crate) use self::findings::findings;
pub(crate) use self::fleet::fleet;
pub(crate) use self::node::node;
pub(crate) use self::volume::volume;
pub(crate) use self::volumes::volumes;
use crate::url::{Choice, Paging, Query};

/// The only stylesheet. The Content-Security-Policy has its hash.
pub(crate) const STYLE: &str = include_str!("style.css");
/// A bar that is partly filled: without an icon, browsers ask for /favicon.ico.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' \
                    height='16' rx='3' fill='%23205ea8'/%3E%3Crect x='3' y='9' width='10' height='4' fill='%23fff'/%3E\
                    %3C/svg%3E";

/// Something that is not known.
const UNKNOWN: &str = "unknown";
/// Something that does not exist.
const NOTHING: &str = "none";

/// The part of the site that a page belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Fleet,
    Volumes,
    Findings,
    None,
}

/// The frame of every page.
fn frame(title: &str, part: Part, body: &Markup) -> Markup {
    let title = text(title);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – Quarry" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    span.brand { "Quarry" }
                    nav aria-label="Parts" {
                        ul {
                            @for (name, path, of) in [("Fleet", "/", Part::Fleet), ("Volumes", "/volumes", Part::Volumes), ("Findings", "/findings", Part::Findings)] {
                                li { a href=(path) aria-current=[(of == part).then_some("page")] { (name) } }
                            }
                        }
                    }
                }
                main id="main" tabindex="-1" {
                    h1 { (title) }
                    (body)
                }
                footer {
                    p {
                        "What this controller knew when you opened the page: reload it to see what is new. The page changes \
                         nothing, and asks no node. Controller " (env!("CARGO_PKG_VERSION")) "."
                    }
                }
            }
        }
    }
}

/// A page that says that something does not exist.
pub(crate) fn not_found(what: &str) -> Markup {
    frame(
        "Not found",
        Part::None,
        &html! {
            p { "The controller does not know " b { (text(what)) } "." }
            p { "It may have been deleted, or its node was removed. " a href="/" { "All nodes" } ", " a href="/volumes" { "all volumes" } "." }
        },
    )
}

/// A page that says that the controller cannot answer now.
pub(crate) fn failed(why: &str) -> Markup {
    frame(
        "Not available",
        Part::None,
        &html! {
            p.notice role="status" { (sentence(why)) }
            p { a href="/" { "All nodes" } ", " a href="/findings" { "all findings" } }
        },
    )
}

/// Text from elsewhere, with its control characters escaped.
fn text(text: &str) -> String {
    printable(text)
}

/// Text from elsewhere, or `otherwise` if it is empty.
fn or<'a>(given: &str, otherwise: &'a str) -> Cow<'a, str> {
    if given.is_empty() { Cow::Borrowed(otherwise) } else { Cow::Owned(text(given)) }
}

/// A sentence from elsewhere; what is between backticks is a command.
fn sentence(given: &str) -> Markup {
    let given = text(given);
    html! {
        @for (position, part) in given.split('`').enumerate() {
            @if position % 2 == 0 { (part) } @else { code { (part) } }
        }
    }
}

/// The links to the other pages of a list. `path` is that of the list, `what` its entries.
fn pages(path: &str, query: &Query, paging: Paging, what: &str) -> Markup {
    let Paging { page, pages, .. } = paging;
    let link = |name: &str, to: usize, possible: bool| {
        html! {
            li { @if possible { a href={ (path) (query.on_page(to)) } { (name) } } @else { span.off { (name) } } }
        }
    };
    html! {
        @if pages > 1 {
            nav.pages aria-label={ "Pages of " (what) } {
                ul {
                    (link("First", 1, page > 1))
                    (link("Previous", page.saturating_sub(1), page > 1))
                    li { span aria-current="page" { "Page " (page) " of " (pages) } }
                    (link("Next", page.saturating_add(1), page < pages))
                    (link("Last", pages, page < pages))
                }
            }
        }
    }
}

/// `101 to 200 of 5000 nodes`; `what` is one of them.
fn range(paging: Paging, shown: usize, what: &str) -> String {
    let all = plural(paging.total, what);
    if paging.total == shown {
        return all;
    }
    format!("{} to {} of {all}", paging.before() + 1, paging.before() + shown)
}

/// A field of a form that offers all values of a parameter.
fn select<C: Choice>(name: &str, label: &str, selected: C, words: impl Fn(C) -> &'static str) -> Markup {
    html! {
        label { (label) " "
            select name=(name) {
                @for choice in C::ALL.iter().copied() {
                    option value=(choice.name()) selected[choice == selected] { (words(choice)) }
                }
            }
        }
    }
}

/// A form that selects what a list shows. It keeps the order, and begins with the first page.
fn form(path: &str, query: &Query, search: &str, fields: &Markup) -> Markup {
    let sort = query.sort_name();
    html! {
        form action=(path) method="get" role="search" {
            label { (search) " " input type="search" name="q" value=(query.search) maxlength="200"; }
            (fields)
            @if !sort.is_empty() { input type="hidden" name="sort" value=(sort); }
            button type="submit" { "Show" }
            " " a href=(path) { "Show all" }
        }
    }
}

/// A row of a list of facts.
fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}
