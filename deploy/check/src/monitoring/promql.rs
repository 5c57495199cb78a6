//! Which metrics and labels an expression of Prometheus uses. Whether it is valid is promtool's question.

use std::collections::BTreeSet;

use super::metrics::Metrics;

/// A part of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A metric, a function, a label or a keyword.
    Word(String),
    /// A text, a number, a duration, or a variable of Grafana outside of texts.
    Value,
    /// Any other character.
    Sign(char),
}

/// Words before a list of labels in parentheses.
const LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that stand alone.
const KEYWORDS: &[&str] = &["and", "or", "unless", "offset", "bool", "atan2", "inf", "nan"];

/// What is wrong with the names in an expression, one per line, and all labels that its series can have.
pub(super) fn check(expression: &str, known: &Metrics) -> (Vec<String>, BTreeSet<String>) {
    let tokens = tokens(expression);
    let (mut wrong, mut labels, mut listed) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut found = false;
    let mut rest = tokens.as_slice();
    while let Some((token, next)) = rest.split_first() {
        rest = next;
        match token {
            Token::Sign('[') => rest = after(rest, ']'),
            Token::Sign('{') => wrong.push("a selector without the name of a metric".to_owned()),
            Token::Word(word) if LISTS.contains(&word.as_str()) && rest.first() == Some(&Token::Sign('(')) => {
                let end = after(rest, ')');
                listed.extend(words(rest, end));
                rest = end;
            }
            Token::Word(word) if is_metric(word, rest) => {
                found = true;
                let selector = rest.first() == Some(&Token::Sign('{'));
                let end = if selector { after(rest, '}') } else { rest };
                let matched = words(rest, end);
                rest = end;
                let Some(own) = known.labels(word) else {
                    wrong.push(format!("there is no metric {word}"));
                    continue;
                };
                wrong.extend(
                    matched
                        .iter()
                        .filter(|label| !own.contains(*label))
                        .map(|label| format!("{word} has no label {label}")),
                );
                labels.extend(own);
            }
            _ => {}
        }
    }
    if !found {
        wrong.push("it uses no metric".to_owned());
    }
    let unknown = listed.into_iter().filter(|label| !labels.contains(label));
    wrong.extend(unknown.map(|label| format!("none of its metrics has a label {label}")));
    (wrong, labels)
}

/// Whether a word is the name of a metric, by what follows it.
fn is_metric(word: &str, rest: &[Token]) -> bool {
    let is_function = match rest.first() {
        Some(Token::Sign('(')) => true,
        // `sum by (node) (…)`
        Some(Token::Word(next)) => matches!(next.as_str(), "by" | "without"),
        _ => false,
    };
    !is_function && !KEYWORDS.contains(&word.to_ascii_lowercase().as_str()) && !LISTS.contains(&word)
}

/// What follows the next such sign.
fn after(tokens: &[Token], sign: char) -> &[Token] {
    let at = tokens.iter().position(|token| *token == Token::Sign(sign));
    at.and_then(|at| tokens.get(at + 1..)).unwrap_or_default()
}

/// The words of a part: what `tokens` begins with, until `end` begins.
fn words(tokens: &[Token], end: &[Token]) -> Vec<String> {
    let part = tokens.iter().take(tokens.len() - end.len());
    let word = |token: &Token| if let Token::Word(word) = token { Some(word.clone()) } else { None };
    part.filter_map(word).collect()
}

fn tokens(expression: &str) -> Vec<Token> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let tail = rest.get(first.len_utf8()..).unwrap_or_default();
        let length = |of: &str| of.chars().take_while(is_part).map(char::len_utf8).sum::<usize>();
        let token = match first {
            _ if first.is_whitespace() => None,
            '#' => {
                rest = tail.split_once('\n').map(|(_, lines)| lines).unwrap_or_default();
                continue;
            }
            '"' | '\'' => {
                let mut escaped = false;
                let end = tail.char_indices().find(|(_, c)| {
                    let ends = *c == first && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                tokens.push(Token::Value);
                rest = end.and_then(|(at, _)| tail.get(at + 1..)).unwrap_or_default();
                continue;
            }
            '$' | '0'..='9' => {
                tokens.push(Token::Value);
                rest = tail.get(length(tail)..).unwrap_or_default();
                continue;
            }
            _ if is_part(&first) => {
                let (word, next) = rest.split_at(length(rest));
                tokens.push(Token::Word(word.to_owned()));
                rest = next;
                continue;
            }
            _ => Some(Token::Sign(first)),
        };
        tokens.extend(token);
        rest = tail;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(expression: &str) -> Vec<String> {
        let known = Metrics::of(&[("quarry_a_total", &["pool", "node"]), ("quarry_b", &["state"])]);
        check(expression, &known).0
    }

    #[test]
    fn valid_names_are_accepted() {
        for expression in [
            "quarry_b",
            "max by (pool) (rate(quarry_a_total{node=~\"a|b\", pool!='x{y'}[$__rate_interval])) > 0.1 # a comment: quarry_c",
            "sum(quarry_a_total offset 5m) by (node) / on (node) group_left (state) quarry_b",
            "absent(quarry_b) or quarry_a_total{pool=\"a\\\"b\"} > bool 1e3 and quarry_b unless quarry_b",
            "topk(10, quarry_b) - time() < 7 * 86400",
        ] {
            assert_eq!(wrong(expression), [""; 0], "{expression}");
        }
    }

    #[test]
    fn each_wrong_name_is_found() {
        for (expression, said) in [
            ("rate(quarry_a[5m])", "there is no metric quarry_a"),
            ("quarry_b or quarry_c", "there is no metric quarry_c"),
            ("quarry_b{stat=\"x\"}", "quarry_b has no label stat"),
            ("sum by (node, disk) (quarry_a_total)", "none of its metrics has a label disk"),
            ("quarry_a_total / on (volume) quarry_b", "none of its metrics has a label volume"),
            ("{state=\"x\"}", "a selector without the name of a metric"),
            ("vector(0)", "it uses no metric"),
        ] {
            assert!(wrong(expression).contains(&said.to_owned()), "{expression}: {:?}", wrong(expression));
        }
    }
}
