//! The parameters of the pages in their URLs. A value that is not understood is the default: a link of an older version,
//! or one that was edited by hand, still shows a page.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Rows per page.
pub(crate) const ROWS: usize = 100;
/// A longer text is not searched for.
const LONGEST_SEARCH: usize = 200;
/// What needs no escape in a segment of a path: names of nodes and identifiers of volumes stay readable.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// The path of a node's page.
pub(crate) fn node_path(name: &str) -> String {
    format!("/nodes/{}", utf8_percent_encode(name, SEGMENT))
}

/// The path of a volume's page.
pub(crate) fn volume_path(id: &str) -> String {
    format!("/volumes/{}", utf8_percent_encode(id, SEGMENT))
}

/// A value that a parameter selects from.
pub(crate) trait Choice: Copy + Eq + 'static {
    /// All values, in the order in which they are offered. The first is the default.
    const ALL: &'static [Self];

    /// Its name in the URL; empty for the default.
    fn name(self) -> &'static str;

    /// The value with that name, or the default.
    fn parse(name: &str) -> Self
    where
        Self: Default,
    {
        Self::ALL.iter().copied().find(|value| value.name() == name).unwrap_or_default()
    }
}

/// Which nodes are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Show {
    /// All.
    #[default]
    All,
    /// Those that the controller reaches.
    Up,
    /// Those that it does not reach.
    Down,
    /// Those that a finding names.
    Findings,
}

impl Choice for Show {
    const ALL: &'static [Self] = &[Self::All, Self::Up, Self::Down, Self::Findings];

    fn name(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Up => "up",
            Self::Down => "down",
            Self::Findings => "findings",
        }
    }
}

/// How full a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fill {
    /// As a filter: any.
    #[default]
    Any,
    /// At least 90 %.
    Full,
    /// 80 to 89 %.
    High,
    /// 50 to 79 %.
    Half,
    /// Less than 50 %.
    Low,
    /// It has no storage, or has not reported it.
    Unknown,
}

impl Choice for Fill {
    const ALL: &'static [Self] = &[Self::Any, Self::Full, Self::High, Self::Half, Self::Low, Self::Unknown];

    fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Full => "90",
            Self::High => "80",
            Self::Half => "50",
            Self::Low => "0",
            Self::Unknown => "unknown",
        }
    }
}

/// The column by which nodes are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Column {
    #[default]
    Name,
    State,
    Pools,
    Volumes,
    Size,
    Free,
    Fill,
}

impl Choice for Column {
    const ALL: &'static [Self] =
        &[Self::Name, Self::State, Self::Pools, Self::Volumes, Self::Size, Self::Free, Self::Fill];

    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Pools => "pools",
            Self::Volumes => "volumes",
            Self::Size => "size",
            Self::Free => "free",
            Self::Fill => "fill",
        }
    }
}

/// Which volumes are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Which {
    /// All.
    #[default]
    All,
    /// Those with a problem.
    Problems,
    /// Those that no PersistentVolume references.
    Orphans,
}

impl Choice for Which {
    const ALL: &'static [Self] = &[Self::All, Self::Problems, Self::Orphans];

    fn name(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Problems => "problems",
            Self::Orphans => "orphans",
        }
    }
}

/// The parameters of all pages; each page uses some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Only what contains this text, in any case.
    pub(crate) search: String,
    pub(crate) show: Show,
    pub(crate) fill: Fill,
    pub(crate) sort: Column,
    /// The largest first.
    pub(crate) descending: bool,
    pub(crate) which: Which,
    /// From 1.
    pub(crate) page: usize,
}

impl Query {
    /// Parses the query of a URL.
    pub(crate) fn parse(query: &str) -> Self {
        let mut parsed = Self { page: 1, ..Self::default() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "q" => parsed.search = value.trim().chars().take(LONGEST_SEARCH).collect(),
                "state" => parsed.show = Show::parse(&value),
                "fill" => parsed.fill = Fill::parse(&value),
                "show" => parsed.which = Which::parse(&value),
                "sort" => {
                    parsed.descending = value.starts_with('-');
                    parsed.sort = Column::parse(value.strip_prefix('-').unwrap_or(&value));
                }
                "page" => parsed.page = value.parse().unwrap_or(1).max(1),
                _ => {}
            }
        }
        parsed
    }

    /// The same on that page.
    pub(crate) fn on_page(&self, page: usize) -> Self {
        Self { page, ..self.clone() }
    }

    /// The same, sorted by `column`: the other way round if it is sorted by it now.
    pub(crate) fn sorted_by(&self, column: Column) -> Self {
        let descending = self.sort == column && !self.descending;
        Self { sort: column, descending, page: 1, ..self.clone() }
    }

    /// The name of the order in the URL; empty for the default.
    pub(crate) fn sort_name(&self) -> String {
        match (self.sort, self.descending) {
            (Column::Name, false) => String::new(),
            (column, false) => column.name().to_owned(),
            (column, true) => format!("-{}", column.name()),
        }
    }

    /// Whether this text is searched for; `search` must be the lower case of [`Query::search`].
    pub(crate) fn finds(search: &str, text: &str) -> bool {
        search.is_empty() || text.to_lowercase().contains(search)
    }
}

impl fmt::Display for Query {
    /// The part of a URL behind its path; empty if all values are the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let page = if self.page > 1 { self.page.to_string() } else { String::new() };
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [
            ("q", self.search.as_str()),
            ("state", self.show.name()),
            ("fill", self.fill.name()),
            ("show", self.which.name()),
            ("sort", &self.sort_name()),
            ("page", &page),
        ] {
            if !value.is_empty() {
                query.append_pair(key, value);
            }
        }
        match query.finish() {
            query if query.is_empty() => Ok(()),
            query => write!(f, "?{query}"),
        }
    }
}

/// One page of a longer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    /// From 1.
    pub(crate) page: usize,
    /// At least 1.
    pub(crate) pages: usize,
    /// The number of entries on all pages.
    pub(crate) total: usize,
}

impl Paging {
    /// That page of so many entries, or the last one.
    pub(crate) fn new(page: usize, total: usize) -> Self {
        let pages = total.div_ceil(ROWS).max(1);
        Self { page: page.clamp(1, pages), pages, total }
    }

    /// The number of entries before this page.
    pub(crate) fn before(self) -> usize {
        (self.page - 1) * ROWS
    }

    /// The entries of this page.
    pub(crate) fn of<T>(self, entries: &[T]) -> &[T] {
        let end = (self.before() + ROWS).min(entries.len());
        entries.get(self.before()..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_back_from_its_url() {
        let query = Query {
            search: "a b&c=<d>".into(),
            show: Show::Down,
            fill: Fill::High,
            sort: Column::Free,
            descending: true,
            which: Which::Orphans,
            page: 7,
        };
        let text = query.to_string();
        assert_eq!(text, "?q=a+b%26c%3D%3Cd%3E&state=down&fill=80&show=orphans&sort=-free&page=7");
        assert_eq!(Query::parse(text.strip_prefix('?').unwrap()), query);
        assert_eq!(Query::parse("").to_string(), "");
    }

    #[test]
    fn a_value_that_is_not_understood_is_the_default() {
        let default = Query { page: 1, ..Query::default() };
        for text in [
            "page=0",
            "page=-1",
            "page=x",
            "page=99999999999999999999",
            "state=sideways",
            "sort=",
            "fill=91",
            "x=y",
            "%ff",
            "&&=",
            "show=%00",
        ] {
            assert_eq!(Query::parse(text), default, "{text}");
        }
        assert!(Query::parse(&format!("q={}", "x".repeat(10_000))).search.len() <= LONGEST_SEARCH);
    }

    #[test]
    fn a_column_is_sorted_the_other_way_round_the_second_time() {
        let query = Query::parse("sort=fill&page=3&q=a");
        assert_eq!(query.sorted_by(Column::Fill).to_string(), "?q=a&sort=-fill");
        assert_eq!(query.sorted_by(Column::Fill).sorted_by(Column::Fill).to_string(), "?q=a&sort=fill");
        assert_eq!(query.sorted_by(Column::Name).to_string(), "?q=a");
    }

    #[test]
    fn pages_cover_all_entries_once() {
        let entries: Vec<usize> = (0..250).collect();
        let pages: Vec<usize> = (1..=3).flat_map(|page| Paging::new(page, 250).of(&entries).to_vec()).collect();
        assert_eq!(pages, entries);
        assert_eq!(Paging::new(usize::MAX, 250), Paging { page: 3, pages: 3, total: 250 });
        assert_eq!(Paging::new(0, 0), Paging { page: 1, pages: 1, total: 0 });
        assert_eq!(Paging::new(1, 200).pages, 2);
    }

    #[test]
    fn a_path_has_one_segment_for_any_name() {
        assert_eq!(volume_path("v1:abc:worker-1.example.org:pvc_1"), "/volumes/v1:abc:worker-1.example.org:pvc_1");
        assert_eq!(node_path("a/../b?c#d\"e"), "/nodes/a%2F..%2Fb%3Fc%23d%22e");
    }
}
