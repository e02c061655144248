//! The authority of a lab's cluster, and what it signs: certificates and the kubeconfig files that carry them.
//!
//! Users and groups are those that Kubernetes' own roles are bound to
//! (<https://kubernetes.io/docs/setup/best-practices/certificates/>).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

use crate::error::{Attempt, Result};

/// Who signs for a cluster, and the folder where all is.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Whom a certificate is for.
pub struct Subject<'a> {
    /// The name of its files.
    pub file: &'a str,
    /// The user.
    pub user: &'a str,
    /// The user's group, if any.
    pub group: Option<&'a str>,
    /// The names and addresses that a server has.
    pub names: &'a [String],
}

impl Authority {
    /// Makes an authority with its folder, and the pair of keys for the tokens of service accounts.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))?;
        let doing = || "make the cluster's authority".to_owned();
        let key = generate().attempt(doing)?;
        let certificate = params().self_signed(&key).map_err(io::Error::other).attempt(doing)?;
        write(&dir.join("ca.pem"), &certificate.pem())?;
        write(&dir.join("ca.key"), &key.serialize_pem())?;
        let tokens = generate().attempt(doing)?;
        write(&dir.join("tokens.key"), &tokens.serialize_pem())?;
        write(&dir.join("tokens.pub"), &tokens.public_key_pem())?;
        Ok(Self { dir: dir.into(), issuer: Issuer::new(params(), key) })
    }

    /// The authority that was made in this folder.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("ca.key");
        let doing = || format!("read {}", path.display());
        let text = fs::read_to_string(&path).attempt(doing)?;
        let key = KeyPair::from_pem(&text).map_err(io::Error::other).attempt(doing)?;
        Ok(Self { dir: dir.into(), issuer: Issuer::new(params(), key) })
    }

    /// Writes a certificate and its key, `FILE.pem` and `FILE.key`.
    pub fn sign(&self, subject: &Subject<'_>) -> Result<()> {
        let doing = || format!("sign for {}", subject.user);
        let (key, pem) = self.signed(subject).map_err(io::Error::other).attempt(doing)?;
        write(&self.dir.join(format!("{}.pem", subject.file)), &pem)?;
        write(&self.dir.join(format!("{}.key", subject.file)), &key.serialize_pem())
    }

    /// Writes a certificate, and the file `FILE.conf` by which a client speaks to a server with it.
    pub fn client(&self, subject: &Subject<'_>, server: &str) -> Result<()> {
        self.sign(subject)?;
        let path = |end: &str| self.dir.join(format!("{}.{end}", subject.file));
        // JSON is YAML.
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "lab",
                "cluster": { "server": server, "certificate-authority": self.dir.join("ca.pem") },
            }],
            "users": [{
                "name": subject.user,
                "user": { "client-certificate": path("pem"), "client-key": path("key") },
            }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": subject.user } }],
            "current-context": "lab",
        });
        write(&path("conf"), &format!("{document:#}\n"))
    }

    fn signed(&self, subject: &Subject<'_>) -> Result<(KeyPair, String), rcgen::Error> {
        let (addresses, names): (Vec<&String>, Vec<_>) =
            subject.names.iter().partition(|name| name.parse::<IpAddr>().is_ok());
        let mut params = CertificateParams::new(names.into_iter().cloned().collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().filter_map(|ip| ip.parse().ok()).map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, subject.user);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok((key, pem))
    }
}

/// What the authority's own certificate says; the same each time, so that its key alone makes it the issuer again.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ripstop lab");
    params
}

fn generate() -> Result<KeyPair, io::Error> {
    KeyPair::generate().map_err(io::Error::other)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).attempt(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_signs_after_it_was_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path()).unwrap();
        let names = ["n1".to_owned(), "172.30.1.11".to_owned()];
        let subject = Subject { file: "n1", user: "system:node:n1", group: Some("system:nodes"), names: &names };
        Authority::open(dir.path()).unwrap().client(&subject, "https://172.30.1.5:6443").unwrap();
        let text = fs::read_to_string(dir.path().join("n1.conf")).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["clusters"][0]["cluster"]["server"], "https://172.30.1.5:6443");
        for end in ["pem", "key"] {
            assert!(fs::read_to_string(dir.path().join(format!("n1.{end}"))).unwrap().starts_with("-----BEGIN"));
        }
        assert!(Authority::open(&dir.path().join("none")).is_err());
    }
}
