//! A kubeconfig: the file by which clients of Kubernetes find an API server and say who they are.
//!
//! Read is the current context alone, with its cluster and user. What only other contexts say is passed over, and so are
//! fields that change nothing for this client. Ways in which a client would run a process are faults: the agent runs none.

use std::fmt;
use std::path::PathBuf;

use super::tree::{Tree, shown};
use super::{Decoder, Fields, Node, Unknown};
use crate::{Fault, Faults};

/// An API server and who asks it, as the current context of a kubeconfig says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// Where the API server is: `https://HOST[:PORT][/PATH]`.
    pub server: String,
    /// The authorities that may have signed its certificate.
    pub ca: Option<Pem>,
    /// The name in its certificate, where it is not that of the address.
    pub server_name: Option<String>,
    /// The certificate by which the client shows who it is, and its key.
    pub client: Option<(Pem, Pem)>,
    /// The token by which it does.
    pub token: Option<Token>,
}

/// Text in PEM form. Not printed: it may be a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In this file; a relative path starts at the kubeconfig's folder.
    File(PathBuf),
    /// Here, in base64.
    Inline(String),
}

/// A bearer token. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// In this file, which may change.
    File(PathBuf),
    /// Here.
    Inline(String),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Inline(_) => f.write_str("Inline"),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Inline(_) => f.write_str("Inline"),
        }
    }
}

impl Kubeconfig {
    /// Reads the current context of a kubeconfig, YAML or JSON.
    ///
    /// # Errors
    /// Everything wrong with what it names, under the object `kubeconfig`. No secret is repeated.
    pub fn decode(text: &str) -> Result<Self, Faults> {
        const OBJECT: &str = "kubeconfig";
        let fault = |found: String, accepted: &str| Faults::from(Fault::new(OBJECT, "", found, accepted));
        let mut documents =
            Tree::parse(text).map_err(|(found, accepted)| fault(format!("found {found}"), &accepted))?;
        documents.retain(|tree| *tree != Tree::Null);
        let [tree] = &documents[..] else {
            return Err(fault(format!("found {} documents", documents.len()), "one document of kind Config"));
        };
        let mut decoder = Decoder::new(OBJECT, Unknown::PassOver);
        let value = kubeconfig(&mut decoder, &Node::root(tree));
        decoder.finish(value).map(|(config, _)| config)
    }
}

fn kubeconfig(d: &mut Decoder, root: &Node<'_>) -> Option<Kubeconfig> {
    let fields = d.map(root, &["current-context", "contexts", "clusters", "users"])?;
    let current = d.required(&fields, "current-context", "the name of a context")?;
    let context = named(d, &fields, "contexts", d_text(&current)?, "context")?;
    let context = d.map(&context, &["cluster", "user"])?;
    let cluster = d.required(&context, "cluster", "the name of a cluster")?;
    let user = d.required(&context, "user", "the name of a user")?;
    let cluster = named(d, &fields, "clusters", d_text(&cluster)?, "cluster")?;
    let user = named(d, &fields, "users", d_text(&user)?, "user")?;
    let cluster = d.map(&cluster, &["server", "certificate-authority", "certificate-authority-data"])?;
    let user = d.map(&user, &["token", "tokenFile", "client-certificate", "client-key"])?;
    refuse_processes(d, &user);
    let server = d.required(&cluster, "server", SERVER).and_then(|node| server(d, &node));
    if cluster.get("insecure-skip-tls-verify").is_some_and(|node| *node.tree == Tree::Bool(true)) {
        let path = cluster.path("insecure-skip-tls-verify");
        d.fault(path, "true", "a certificate-authority: whoever is in the way could be the API server");
    }
    let server_name = cluster.get("tls-server-name").and_then(|node| d.text(&node, "a name").map(str::to_owned));
    let ca = pem(d, &cluster, "certificate-authority");
    let (cert, key) = (pem(d, &user, "client-certificate"), pem(d, &user, "client-key"));
    if cert.is_some() != key.is_some() {
        let found = if cert.is_some() { "a certificate without its key" } else { "a key without its certificate" };
        d.fault(user.path("client-key"), found, "client-certificate and client-key, or neither");
    }
    let file = user.get("tokenFile").and_then(|node| file(d, &node)).map(Token::File);
    let token = file.or_else(|| {
        let node = user.get("token")?;
        secret(d, &node).map(Token::Inline)
    });
    Some(Kubeconfig { server: server?, ca, server_name, client: cert.zip(key), token })
}

const SERVER: &str = "https://HOST:PORT, as in https://10.0.0.1:6443";

/// The text of a node that is one. Faults come from where it is used.
fn d_text<'t>(node: &Node<'t>) -> Option<&'t str> {
    match node.tree {
        Tree::Text(text) => Some(text),
        _ => None,
    }
}

/// The map `what` of the entry of that name in a list of `{name: …, WHAT: {…}}`.
fn named<'t>(
    d: &mut Decoder,
    fields: &Fields<'t>,
    list: &'static str,
    name: &str,
    what: &'static str,
) -> Option<Node<'t>> {
    let entries = d.required(fields, list, "a list")?;
    let entries = d.list(&entries, list);
    let found = entries.iter().find(|entry| entry.tree.text_at(&["name"]) == Some(name));
    let Some((key, tree)) = found.and_then(|entry| entry.tree.entry(what)) else {
        d.fault(
            fields.path(list),
            format!("no {what} of the name {}", shown(name)),
            format!("the {what} that is named"),
        );
        return None;
    };
    found.map(|entry| entry.field(key, tree))
}

fn refuse_processes(d: &mut Decoder, user: &Fields<'_>) {
    const ACCEPTED: &str =
        "token, tokenFile, or client-certificate and client-key: the agent runs no process to sign in";
    for key in ["exec", "auth-provider"] {
        if user.get(key).is_some() {
            d.fault(user.path(key), "a program to run", ACCEPTED);
        }
    }
    for key in ["username", "password"] {
        if user.get(key).is_some() {
            d.fault(user.path(key), "a password, which no API server takes since Kubernetes 1.19", ACCEPTED);
        }
    }
}

fn server(d: &mut Decoder, node: &Node<'_>) -> Option<String> {
    let text = d.text(node, SERVER)?;
    let plain = text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'@'));
    let host = text.strip_prefix("https://").filter(|rest| plain && !rest.is_empty() && !rest.starts_with('/'));
    if host.is_none() {
        d.fault(&node.path, shown(text), SERVER);
    }
    host.map(|_| text.trim_end_matches('/').to_owned())
}

/// A file by its path, or data in the field's twin; data goes before, as with kubectl.
fn pem(d: &mut Decoder, fields: &Fields<'_>, key: &str) -> Option<Pem> {
    if let Some(node) = fields.get(&format!("{key}-data")) {
        return secret(d, &node).map(Pem::Inline);
    }
    fields.get(key).and_then(|node| file(d, &node)).map(Pem::File)
}

/// Text that is not repeated where something is wrong with it.
fn secret(d: &mut Decoder, node: &Node<'_>) -> Option<String> {
    match node.tree {
        Tree::Text(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => Some(text.to_string()),
        _ => {
            d.fault(&node.path, "what is not one line of printable text", "text");
            None
        }
    }
}

fn file(d: &mut Decoder, node: &Node<'_>) -> Option<PathBuf> {
    let text = d.text(node, "a file")?;
    if text.is_empty() || text.chars().any(char::is_control) {
        d.fault(&node.path, shown(text), "a file's path");
        return None;
    }
    Some(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r"
apiVersion: v1
kind: Config
current-context: main
contexts:
- {name: other, context: {cluster: nowhere, user: nobody}}
- {name: main, context: {cluster: here, user: agent}}
clusters:
- name: here
  cluster: {server: 'https://10.0.0.1:6443/', certificate-authority: ca.crt, tls-server-name: kubernetes}
users:
- name: agent
  user: {tokenFile: /run/token, client-certificate-data: QUJD, client-key-data: REVG}
";

    #[test]
    fn the_current_context_is_read() {
        let config = Kubeconfig::decode(WHOLE).unwrap();
        assert_eq!(config.server, "https://10.0.0.1:6443");
        assert_eq!(config.ca, Some(Pem::File("ca.crt".into())));
        assert_eq!(config.server_name.as_deref(), Some("kubernetes"));
        assert_eq!(config.token, Some(Token::File("/run/token".into())));
        assert_eq!(config.client, Some((Pem::Inline("QUJD".into()), Pem::Inline("REVG".into()))));
    }

    #[test]
    fn faults_name_the_field_and_no_secret() {
        let change = |from: &str, to: &str| {
            let text = WHOLE.replace(from, to);
            assert_ne!(text, WHOLE, "{from}");
            Kubeconfig::decode(&text).unwrap_err().to_string()
        };
        for (from, to, words) in [
            ("current-context: main", "current-context: gone", &["contexts", "gone"][..]),
            ("cluster: here", "cluster: lost", &["clusters", "lost"]),
            ("https://10", "http://10", &["server", "https://"]),
            ("tokenFile: /run/token", "exec: {command: sh}", &["exec", "runs no process"]),
            ("tokenFile: /run/token", "token: \"sec\\nret\"", &["token", "one line"]),
            ("certificate-authority: ca.crt", "insecure-skip-tls-verify: true", &["insecure-skip-tls-verify"]),
            (", client-key-data: REVG", "", &["client-key", "without its key"]),
            ("kind: Config", "users: []", &["users"]),
        ] {
            let fault = change(from, to);
            assert!(words.iter().all(|word| fault.contains(word)), "{to}: {fault}");
            assert!(!fault.contains("sec") || to.contains("insec"), "{fault}");
        }
        for bad in ["", "a: [", "---\na: 1\n---\nb: 2\n", "[]", "current-context: 1"] {
            assert!(Kubeconfig::decode(bad).is_err(), "{bad:?}");
        }
        assert!(!format!("{:?}", Kubeconfig::decode(WHOLE).unwrap()).contains("QUJD"));
    }
}
