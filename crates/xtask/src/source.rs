//! Rust source as the checks see it: tokens without comments, literals and test code, and the paths in them.
//!
//! Not a parser: a lexer, the extent of one item, and `use` trees. That is enough to say "this file names
//! `std::process::Command`" also where it is imported as part of a group, as a module or under another name.

use std::collections::BTreeMap;

/// One identifier or punctuation mark (`::` is one) and the line it is on, from 1. Literals are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// A path as written or imported, with imported names replaced by what they stand for, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub line: usize,
    pub text: String,
}

impl Path {
    /// True where the path is `banned`, lies inside it, or imports everything of a module around it.
    #[must_use]
    pub fn names(&self, banned: &str) -> bool {
        let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"));
        self.text == banned
            || inside(banned, &self.text)
            || self.text.strip_suffix("::*").is_some_and(|module| inside(module, banned) || module == banned)
    }
}

/// True for a file that holds only test code, by its name.
#[must_use]
pub fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "examples" | "tests.rs"))
}

/// The tokens of `text` outside comments, literals and items under `#[cfg(test)]`.
#[must_use]
pub fn tokens(text: &str) -> Vec<Token> {
    without_tests(Lexer { rest: text.chars().collect(), at: 0, line: 1 }.run())
}

/// Every path in `tokens`, imports expanded.
#[must_use]
pub fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut bodies = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" && tokens.get(at + 1).is_some_and(|next| next.text != "<") {
            at += 1;
            let mut tree = UseTree { tokens, at, found: &mut found, names: &mut names };
            tree.branch(String::new());
            at = tree.at;
        } else if is_ident(&tokens[at].text) {
            let path = Path { line: tokens[at].line, text: tokens[at].text.clone() };
            let (path, next) = follow(tokens, at + 1, path);
            bodies.push(path);
            at = next;
        } else {
            at += 1;
        }
    }
    for mut path in bodies {
        let (first, rest) = path.text.split_once("::").map_or((path.text.as_str(), None), |(a, b)| (a, Some(b)));
        if let Some(meant) = names.get(first) {
            path.text = rest.map_or_else(|| meant.clone(), |rest| format!("{meant}::{rest}"));
        }
        found.push(path);
    }
    found.sort_by_key(|path| path.line);
    found
}

/// Continues `path` over `:: name` from `at`; gives it with the place behind it.
fn follow(tokens: &[Token], mut at: usize, mut path: Path) -> (Path, usize) {
    while let [mark, name, ..] = &tokens[at..]
        && mark.text == "::"
        && is_ident(&name.text)
    {
        path.text.push_str("::");
        path.text.push_str(&name.text);
        at += 2;
    }
    (path, at)
}

fn is_ident(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Walks one `use` statement.
struct UseTree<'a> {
    tokens: &'a [Token],
    at: usize,
    found: &'a mut Vec<Path>,
    names: &'a mut BTreeMap<String, String>,
}

impl UseTree<'_> {
    fn branch(&mut self, prefix: String) {
        let mut path = prefix;
        while let Some(token) = self.tokens.get(self.at) {
            match token.text.as_str() {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while self.tokens.get(self.at).is_some_and(|token| token.text != "}" && token.text != ";") {
                        self.branch(path.clone());
                        if self.tokens.get(self.at).is_some_and(|token| token.text == ",") {
                            self.at += 1;
                        }
                    }
                    self.at += usize::from(self.tokens.get(self.at).is_some_and(|token| token.text == "}"));
                    return;
                }
                "," | "}" | ";" => return self.leaf(path, None),
                "as" => {
                    let alias = self.tokens.get(self.at + 1).map(|token| token.text.clone());
                    self.at += 2;
                    return self.leaf(path, alias);
                }
                name => {
                    if name != "self" || path.is_empty() {
                        path = if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") };
                    }
                    self.at += 1;
                }
            }
        }
    }

    fn leaf(&mut self, path: String, alias: Option<String>) {
        if path.is_empty() {
            return;
        }
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |token| token.line);
        let name = alias.unwrap_or_else(|| path.rsplit("::").next().unwrap_or_default().to_owned());
        self.names.insert(name, path.clone());
        self.found.push(Path { line, text: path });
    }
}

/// Drops each item that stands under an attribute which names `test` in a `cfg`, or under `#[test]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = text(at) == "#" && text(at + 1) == "!";
        let open = at + 1 + usize::from(inner);
        if text(at) != "#" || text(open) != "[" {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let close = closing(&tokens, open);
        let words: Vec<&str> = tokens[open + 1..close].iter().map(|token| token.text.as_str()).collect();
        let tests =
            words == ["test"] || (words.first() == Some(&"cfg") && words.contains(&"test") && !words.contains(&"not"));
        match (tests, inner) {
            (true, true) => return Vec::new(),
            (true, false) => at = item_end(&tokens, close + 1),
            (false, _) => {
                kept.extend_from_slice(&tokens[at..=close.min(tokens.len() - 1)]);
                at = close + 1;
            }
        }
    }
    kept
}

/// The place behind the item that begins at `at`: its block, or its semicolon.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ";" => return at + 1,
            "{" => return closing(tokens, at) + 1,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// The place of the bracket that closes the one at `open`; the last token where none does.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

struct Lexer {
    rest: Vec<char>,
    at: usize,
    line: usize,
}

impl Lexer {
    fn run(mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        while let Some(c) = self.peek(0) {
            match c {
                '/' if self.peek(1) == Some('/') => self.skip_while(|c| c != '\n'),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(),
                '\'' => self.quote(),
                c if c.is_alphabetic() || c == '_' => {
                    let (line, word) = (self.line, self.word());
                    if self.literal_prefix(&word) {
                        self.prefixed(&word);
                    } else {
                        tokens.push(Token { line, text: word });
                    }
                }
                c if c.is_ascii_digit() => {
                    self.word();
                }
                ':' if self.peek(1) == Some(':') => {
                    tokens.push(Token { line: self.line, text: "::".into() });
                    self.skip(2);
                }
                c if c.is_whitespace() => self.skip(1),
                c => {
                    tokens.push(Token { line: self.line, text: c.into() });
                    self.skip(1);
                }
            }
        }
        tokens
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.line += usize::from(self.peek(0) == Some('\n'));
            self.at += 1;
        }
    }

    fn skip_while(&mut self, more: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&more) {
            self.skip(1);
        }
    }

    fn word(&mut self) -> String {
        let start = self.at;
        self.skip_while(|c| c.is_alphanumeric() || c == '_');
        self.rest[start..self.at].iter().collect()
    }

    /// True where `word` is the prefix of a string or raw identifier that follows at once.
    fn literal_prefix(&self, word: &str) -> bool {
        match self.peek(0) {
            Some('"') => matches!(word, "b" | "c" | "r" | "br" | "cr"),
            Some('\'') => word == "b",
            Some('#') => matches!(word, "br" | "cr") || (word == "r" && matches!(self.peek(1), Some('"' | '#'))),
            _ => false,
        }
    }

    fn prefixed(&mut self, prefix: &str) {
        match self.peek(0) {
            Some('\'') => self.quote(),
            Some('"') if !prefix.contains('r') => self.string(),
            _ => self.raw_string(),
        }
    }

    fn raw_string(&mut self) {
        let start = self.at;
        self.skip_while(|c| c == '#');
        let hashes = self.at - start;
        self.skip(1);
        while self.peek(0).is_some() {
            let closes = self.peek(0) == Some('"') && (1..=hashes).all(|n| self.peek(n) == Some('#'));
            self.skip(1);
            if closes {
                return self.skip(hashes);
            }
        }
    }

    fn string(&mut self) {
        self.skip(1);
        while let Some(c) = self.peek(0) {
            self.skip(1 + usize::from(c == '\\'));
            if c == '"' {
                return;
            }
        }
    }

    /// A character, or a lifetime, of which only the mark is skipped.
    fn quote(&mut self) {
        let character = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.skip(1);
        if character {
            self.skip(1 + usize::from(self.peek(0) == Some('\\')));
            self.skip_while(|c| c != '\'');
            self.skip(1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.skip(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        tokens(text).iter().map(|token| token.text.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn found(text: &str) -> Vec<(usize, String)> {
        paths(&tokens(text)).into_iter().map(|path| (path.line, path.text)).collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" r#\"i \" j\"# b'k' '\\'' 'l' c\"m\" &'n o r#p 0x1f";
        assert_eq!(words(text), "a e & n o r # p");
        assert_eq!(tokens("x\n/* \n */ y \"\n\" z").iter().map(|t| t.line).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn test_items_are_left_out() {
        let text = "fn a() {} #[cfg(test)] #[allow(x)] mod tests { fn b() { c } } fn d() {} #[test] fn e() {} \
                    #[cfg(all(test, unix))] use f; #[cfg(not(test))] fn g() {}";
        assert_eq!(words(text), "fn a ( ) { } fn d ( ) { } # [ cfg ( not ( test ) ) ] fn g ( ) { }");
        assert_eq!(words("#![cfg(test)] fn a() {}"), "");
    }

    #[test]
    fn imports_are_expanded_and_followed() {
        let text = "use std::{fs, io::{self, Write as W}, process};\nfn a() { process::Command::new(io::stdin()); W; }";
        let expected = [
            (1, "std::fs"),
            (1, "std::io"),
            (1, "std::io::Write"),
            (1, "std::process"),
            (2, "fn"),
            (2, "a"),
            (2, "std::process::Command::new"),
            (2, "std::io::stdin"),
            (2, "std::io::Write"),
        ];
        assert_eq!(found(text), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn a_ban_covers_what_lies_inside_and_globs_around() {
        let path = |text: &str| Path { line: 1, text: text.into() };
        assert!(path("std::fs::read").names("std::fs"));
        assert!(path("std::fs").names("std::fs"));
        assert!(path("std::process::*").names("std::process::Command"));
        assert!(path("std::fs::*").names("std::fs"));
        assert!(!path("std::fsx").names("std::fs"));
        assert!(!path("std::process").names("std::process::Command"));
    }
}
