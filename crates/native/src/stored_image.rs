//! Roots that are made of an image in the store: its layers, and what every sandbox needs in it.

use std::path::Path;

use caisson_core::{BackendError, StoredImage};
use caisson_launcher::plan::{Layers, Step};

use crate::names::Names;

/// Where programs are looked for in an image that does not say.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Figures of the processors are in it, and nothing else ever.
const SYS_BYTES: u64 = 64 << 10;

/// The layers as overlayfs takes them: the topmost first. What a layer says counts where it is topmost; a second time below, all of it is
/// hidden, and overlayfs takes no directory twice.
pub(crate) fn layers(image: &StoredImage, directory: &Path) -> Result<Layers, BackendError> {
    let directory =
        directory.to_str().ok_or_else(|| BackendError::Unsupported("the path of the data directory must be UTF-8".to_owned()))?;
    let mut names: Vec<String> = Vec::with_capacity(image.layers.len());
    for layer in image.layers.iter().rev() {
        let name = layer.hex();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(Layers { directory: directory.to_owned(), names })
}

/// What is made in it before anything is mounted there. Who user code is is settled inside, by the agent, and so are home and work dir.
pub(crate) fn steps(names: &Names, hostname: &str) -> Vec<Step> {
    let mut steps =
        vec![Step::Directory { path: "etc".into(), mode: 0o755, owner: 0 }, Step::Directory { path: "tmp".into(), mode: 0o1777, owner: 0 }];
    let file = |(name, content)| Step::File { path: format!("etc/{name}"), mode: 0o644, owner: 0, content };
    steps.extend(names.files(hostname).map(file));
    // The image's own would be in the way of what stands for the kernel's.
    steps.push(Step::Tmpfs { path: "sys".into(), mode: 0o755, bytes: SYS_BYTES, inodes: 64, devices: false });
    steps
}

#[cfg(test)]
mod tests {
    use caisson_core::{Digest, ImageConfig};

    use super::*;

    #[test]
    fn the_topmost_layer_comes_first_and_each_once() {
        let digest = |byte| Digest::from_bytes([byte; 32]);
        let image =
            StoredImage { name: "x".to_owned(), id: digest(0), layers: [1, 2, 1, 3].map(digest).to_vec(), config: ImageConfig::default() };
        let layers = layers(&image, Path::new("/data")).unwrap();
        assert_eq!(layers.names, [3, 1, 2].map(|byte| digest(byte).hex()));
    }
}
