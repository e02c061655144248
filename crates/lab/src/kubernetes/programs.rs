//! Where the programs of a cluster are: in the cache that `scripts/programs` fills, and on the host.

use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};
use crate::images;
use crate::options::{Cni, Kubernetes, Proxy};

/// The folders in the cache; `scripts/programs` has the same versions.
const KUBERNETES: &str = "kubernetes-v1.36.2";
const COREDNS: &str = "coredns-v1.14.6";
const FLANNEL: &str = "flannel-v0.27.4";

const PROGRAMS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];
/// What the host has: program, Debian package.
const HOST: [(&str, &str); 4] =
    [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc"), ("etcd", "etcd-server")];

/// Finds all programs of a cluster, and makes its images where they are not in the cache yet.
pub(crate) fn find(cni: Cni) -> Result<Kubernetes> {
    let cache = cache()?;
    let (programs, coredns) = (cache.join(KUBERNETES), cache.join(COREDNS).join("coredns"));
    let parts = images::Programs {
        agnhost: programs.join("agnhost"),
        coredns: coredns.clone(),
        invalid: programs.join("regression-issue-74839"),
    };
    let wanted = PROGRAMS.map(|name| programs.join(name));
    let mut wanted = wanted.iter().map(PathBuf::as_path).chain(parts.all());
    if let Some(path) = wanted.find(|path| !path.is_file()) {
        return Err(LabError::failed(format!("there is no {}: make k8s builds it", path.display())));
    }
    let flanneld = (cni == Cni::Flannel).then(|| cache.join(FLANNEL).join("flanneld"));
    if let Some(path) = flanneld.iter().find(|path| !path.is_file()) {
        return Err(LabError::failed(format!("there is no {}: make flanneld builds it", path.display())));
    }
    if let Some((program, package)) = HOST.into_iter().find(|(program, _)| !on_host(program)) {
        return Err(LabError::failed(format!("there is no {program}: install Debian's {package}")));
    }
    let images = images::archive(&cache, &parts)?;
    Ok(Kubernetes { cni, proxy: Proxy::default(), programs, coredns, flanneld, images })
}

/// The folder in the cache where Kubernetes' own programs are, if they are built.
///
/// # Errors
/// Where the environment does not say where the cache is.
pub fn kubernetes() -> Result<PathBuf> {
    Ok(cache()?.join(KUBERNETES))
}

/// `${XDG_CACHE_HOME:-~/.cache}/ripstop`.
fn cache() -> Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    let base = base.ok_or_else(|| LabError::failed("neither XDG_CACHE_HOME nor HOME says where programs are kept"))?;
    Ok(base.join("ripstop"))
}

fn on_host(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).is_file())
}
