//! Images as an uncompressed archive in the layout of the OCI image specification, `image-layout.md`.
//!
//! The same layers make the same bytes: no time and no owner of the host gets in.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::{about, hex};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A layer in the archive.
#[derive(Debug, Clone)]
pub struct Layer {
    digest: String,
    size: u64,
}

/// An image out of layers.
pub struct Image {
    /// Its full name.
    pub name: String,
    /// The lowest first.
    pub layers: Vec<Layer>,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// The arguments where a container names none.
    pub arguments: Vec<String>,
}

/// An archive that is being written.
pub struct Archive {
    tar: tar::Builder<BufWriter<File>>,
    path: PathBuf,
    blobs: BTreeSet<String>,
}

impl Archive {
    /// Begins an archive.
    pub fn create(path: &Path) -> io::Result<Self> {
        let tar = tar::Builder::new(BufWriter::new(File::create(path)?));
        Ok(Self { tar, path: path.into(), blobs: BTreeSet::new() })
    }

    /// Adds a layer of what `fill` puts into it.
    pub fn layer(&mut self, fill: impl FnOnce(&mut Content) -> io::Result<()>) -> io::Result<Layer> {
        let path = self.path.with_extension("layer");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // Without a name it is gone with this function.
        fs::remove_file(&path)?;
        let mut content = Content { tar: tar::Builder::new(BufWriter::new(file)), folders: BTreeSet::new() };
        fill(&mut content)?;
        let mut file = content.tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let (digest, size) = measure(&mut file)?;
        self.blob(&digest, size, &mut file)?;
        Ok(Layer { digest, size })
    }

    /// Adds images and ends the archive.
    pub fn finish(mut self, images: &[Image]) -> io::Result<()> {
        let mut manifests = Vec::new();
        for image in images {
            let mut manifest = self.image(image)?;
            manifest["annotations"] = json!({ "io.containerd.image.name": image.name });
            manifests.push(manifest);
        }
        let index = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        self.file("index.json", index.len() as u64, index.as_bytes())?;
        let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
        self.file("oci-layout", layout.len() as u64, layout.as_bytes())?;
        self.tar.into_inner()?.flush()
    }

    fn image(&mut self, image: &Image) -> io::Result<Value> {
        let digests: Vec<String> = image.layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
        let config = self.json(
            CONFIG,
            &json!({
                "architecture": architecture(), "os": "linux",
                "config": { "Env": [PATH], "Entrypoint": image.entrypoint, "Cmd": image.arguments },
                "rootfs": { "type": "layers", "diff_ids": digests },
            }),
        )?;
        let layers: Vec<Value> =
            image.layers.iter().map(|layer| descriptor(LAYER, &layer.digest, layer.size)).collect();
        self.json(MANIFEST, &json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }))
    }

    fn json(&mut self, kind: &str, value: &Value) -> io::Result<Value> {
        let mut text = io::Cursor::new(value.to_string().into_bytes());
        let (digest, size) = measure(&mut text)?;
        self.blob(&digest, size, &mut text)?;
        Ok(descriptor(kind, &digest, size))
    }

    fn blob(&mut self, digest: &str, size: u64, content: &mut (impl Read + Seek)) -> io::Result<()> {
        if !self.blobs.insert(digest.to_owned()) {
            return Ok(());
        }
        content.seek(SeekFrom::Start(0))?;
        self.file(&format!("blobs/sha256/{digest}"), size, content)
    }

    fn file(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        self.tar.append_data(&mut header(tar::EntryType::Regular, size, 0o644), name, content)
    }
}

/// What a layer has.
pub struct Content {
    tar: tar::Builder<BufWriter<File>>,
    folders: BTreeSet<PathBuf>,
}

impl Content {
    /// A file of the host under another name, with its permissions. Folders above it are made.
    pub fn program(&mut self, from: &Path, to: &str) -> io::Result<()> {
        let doing = |error| about(from, &error);
        let file = File::open(from).map_err(doing)?;
        let meta = file.metadata().map_err(doing)?;
        self.above(to)?;
        let mut header = header(tar::EntryType::Regular, meta.len(), meta.permissions().mode() & 0o777);
        self.tar.append_data(&mut header, to, file).map_err(doing)
    }

    /// A library of the host, under its own name.
    pub fn library(&mut self, path: &Path) -> io::Result<()> {
        self.program(path, path.to_string_lossy().trim_start_matches('/'))
    }

    /// A file with this text.
    pub fn text(&mut self, to: &str, text: &str) -> io::Result<()> {
        self.above(to)?;
        self.tar.append_data(&mut header(tar::EntryType::Regular, text.len() as u64, 0o644), to, text.as_bytes())
    }

    /// A symbolic link.
    pub fn link(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.above(to)?;
        self.tar.append_link(&mut header(tar::EntryType::Symlink, 0, 0o777), to, from)
    }

    /// A folder, and those above it.
    pub fn folder(&mut self, to: &str) -> io::Result<()> {
        let mode = if to == "tmp" { 0o1777 } else { 0o755 };
        self.above(to)?;
        if self.folders.insert(to.into()) {
            self.tar.append_data(&mut header(tar::EntryType::Directory, 0, mode), format!("{to}/"), io::empty())?;
        }
        Ok(())
    }

    fn above(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((folder, _)) => self.folder(folder),
            None => Ok(()),
        }
    }
}

fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

/// The digest and length of the whole.
fn measure(content: &mut (impl Read + Seek)) -> io::Result<(String, u64)> {
    content.seek(SeekFrom::Start(0))?;
    let (mut context, mut size, mut buffer) = (Context::new(&SHA256), 0, vec![0; 1 << 16]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(context.finish().as_ref()), size));
        }
        context.update(&buffer[..count]);
        size += count as u64;
    }
}

/// As Go calls it, whose words the specification uses.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        let mut archive = Archive::create(path).unwrap();
        let layer = archive
            .layer(|layer| {
                layer.text("etc/deep/hello", "hello\n")?;
                layer.link("deep/hello", "etc/hello")
            })
            .unwrap();
        let image = |name: &str| Image {
            name: name.into(),
            layers: vec![layer.clone()],
            entrypoint: vec!["/etc/hello".into()],
            arguments: Vec::new(),
        };
        archive.finish(&[image("images.invalid/a:1"), image("images.invalid/b:1")]).unwrap();
    }

    #[test]
    fn an_archive_is_the_same_each_time_and_names_its_images() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        write(&one);
        write(&two);
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let mut names = Vec::new();
        let mut index = String::new();
        for entry in tar::Archive::new(File::open(&one).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.last().unwrap() == "index.json" {
                entry.read_to_string(&mut index).unwrap();
            }
        }
        // One layer, one configuration, one manifest, whatever the number of names.
        assert_eq!(names.iter().filter(|name| name.starts_with("blobs/sha256/")).count(), 3, "{names:?}");
        assert!(index.contains("images.invalid/a:1") && index.contains("images.invalid/b:1"), "{index}");
    }
}
