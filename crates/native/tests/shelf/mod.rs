//! A store of images in small: layers made by hand, as the real one would have unpacked them.

#![allow(dead_code, reason = "whoever includes it uses a part of it")]

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use caisson_core::{Digest, ImageConfig, ImageLease, Images, StoredImage, Tenant};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

/// See the module.
#[derive(Debug)]
pub(crate) struct Shelf {
    layers: PathBuf,
    made: AtomicU32,
    images: Mutex<BTreeMap<String, Arc<StoredImage>>>,
    leases: Arc<AtomicUsize>,
}

/// Counts itself.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Images for Shelf {
    async fn resolve(&self, _: &Tenant, name: &str) -> caisson_core::Result<Option<(Arc<StoredImage>, ImageLease)>> {
        let found = self.images.lock().unwrap().get(name).cloned();
        Ok(found.map(|image| {
            self.leases.fetch_add(1, Ordering::SeqCst);
            (image, ImageLease::new(Guard(Arc::clone(&self.leases))))
        }))
    }
}

impl Shelf {
    /// In the place where the backend looks for layers.
    pub(crate) fn below(data: &Path) -> Self {
        let layers = data.join("images/layers");
        fs::create_dir_all(&layers).unwrap();
        Self { layers, made: AtomicU32::new(0), images: Mutex::default(), leases: Arc::default() }
    }

    /// How many leases are held.
    pub(crate) fn leases(&self) -> usize {
        self.leases.load(Ordering::SeqCst)
    }

    /// Where all layers are.
    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    /// A new layer with what `fill` puts into it.
    pub(crate) fn layer(&self, fill: impl FnOnce(&Path)) -> Digest {
        let digest = self.digest();
        let directory = self.layers.join(digest.hex());
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&directory);
        digest
    }

    /// An image of these layers, the lowest first.
    pub(crate) fn image(&self, name: &str, layers: &[Digest], config: ImageConfig) {
        let image = StoredImage { name: name.to_owned(), id: self.digest(), layers: layers.to_vec(), config };
        self.images.lock().unwrap().insert(name.to_owned(), Arc::new(image));
    }

    fn digest(&self) -> Digest {
        let number = self.made.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let mut bytes = [0xA5; 32];
        bytes[..4].copy_from_slice(&number);
        Digest::from_bytes(bytes)
    }
}

/// busybox with all its names: an image as small ones are.
pub(crate) fn busybox(layer: &Path) {
    let program = Path::new("/bin/busybox");
    assert!(program.is_file(), "{} is missing; install the package busybox-static", program.display());
    for directory in ["bin", "etc", "usr/bin", "var", "root", "home", "run"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    directory(layer, "tmp", 0o1777);
    fs::copy(program, layer.join("bin/busybox")).unwrap();
    let names = Command::new(program).arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(names).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", layer.join("bin").join(name)).unwrap();
    }
    file(layer, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnode:x:1234:1235:Node:/home/node:/bin/sh\n", 0o644);
    file(layer, "etc/group", "root:x:0:\ntty:x:5:\nnode:x:1235:\nstaff:x:50:\n", 0o644);
}

/// What of this machine's Debian packages makes a small Debian, with nothing in its list of packages.
pub(crate) fn debian(layer: &Path) {
    const PACKAGES: &str = "base-files bash coreutils dash debianutils diffutils dpkg grep libc-bin libc6 libacl1 libattr1 libbz2-1.0 libcrypt1 \
                            libexpat1 libffi8 libgmp10 liblzma5 libmd0 libpcre2-8-0 libpython3-stdlib libpython3.11-minimal \
                            libpython3.11-stdlib libselinux1 libssl3 libtinfo6 libuuid1 libzstd1 python3 python3-distutils python3-minimal \
                            python3-pip python3-pkg-resources python3-setuptools python3-wheel python3.11 python3.11-minimal sed tar zlib1g";
    // Where this machine's links at the top lead.
    for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    let line = format!(
        "set -eo pipefail; dpkg-query --listfiles {PACKAGES} | grep '^/' | sort -u | \
         grep -v '^/usr/share/\\(man\\|locale\\)' | tar -C / --no-recursion --ignore-failed-read -cf - -T - 2>/dev/null | tar -C \"$0\" --warning=no-timestamp -xpf -"
    );
    let made = Command::new("bash").args(["-c", &line]).arg(layer).stdin(Stdio::null()).status().unwrap();
    assert!(made.success(), "this needs a Debian of the packages {PACKAGES}");
    for directory in ["etc", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for list in ["status", "available"] {
        file(layer, &format!("var/lib/dpkg/{list}"), "", 0o644);
    }
    file(layer, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n", 0o644);
    file(layer, "etc/group", "root:x:0:\ntty:x:5:\nwww-data:x:33:\n", 0o644);
}

pub(crate) fn directory(layer: &Path, path: &str, mode: u32) {
    fs::create_dir_all(layer.join(path)).unwrap();
    fs::set_permissions(layer.join(path), fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn file(layer: &Path, path: &str, content: &str, mode: u32) {
    let path = layer.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A device with this number; 0 and 0 are overlayfs's word for what is not there any more.
pub(crate) fn device(layer: &Path, path: &str, major: u32, minor: u32) {
    let path = layer.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(major, minor)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
}

/// A directory that hides what lower layers have in it.
pub(crate) fn opaque(layer: &Path, path: &str) {
    directory(layer, path, 0o755);
    let path = CString::new(layer.join(path).to_str().unwrap()).unwrap();
    setxattr(path.as_c_str(), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}
