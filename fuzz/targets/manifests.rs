//! Manifests, indexes and configurations of images, by whoever made them: understood or refused in few words, and what is written again is
//! read as the same.
#![no_main]

use caisson_image::documents::{Meaning, configuration, manifest};
use libfuzzer_sys::fuzz_target;

const ANNOUNCED: [Option<&str>; 4] = [
    None,
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json"),
    Some("application/octet-stream"),
];

// The first byte says what the rest is announced as, or of how many layers it is the configuration.
fuzz_target!(|input: &[u8]| {
    let Some((&first, text)) = input.split_first() else { return };
    let result = match first {
        first @ 0..4 => manifest(text, ANNOUNCED[usize::from(first)]).map(|meaning| match meaning {
            Meaning::Image { config, layers, again } => {
                assert!((1..=127).contains(&layers.len()));
                assert_eq!(manifest(&again, None).expect("it is our own"), Meaning::Image { config, layers, again });
            }
            Meaning::Index { images, ours } => assert!(ours.is_none_or(|ours| images.contains(&ours))),
        }),
        layers => configuration(text, layers.into()).map(|about| {
            let texts = about.env.iter().flat_map(|(name, value)| [name, value]).chain(&about.entrypoint).chain(&about.cmd);
            assert!(texts.chain(&about.user).chain(&about.work_dir).all(|text| !text.contains('\0')), "a program cannot get that");
            assert!(about.env.iter().all(|(name, _)| !name.is_empty() && !name.contains('=')));
            assert!(about.work_dir.is_none_or(|path| path.starts_with('/')));
        }),
    };
    if let Err(error) = result {
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.chars().any(char::is_control), "{text:?}");
    }
});
