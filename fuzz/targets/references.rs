//! Names of images: what is one has one whole form, which is read as the same, and leads a request to its registry and repository alone.
#![no_main]

use caisson_image::{Reference, Version};
use http::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let name = match text.parse::<Reference>() {
        Ok(name) => name,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() < 4000 && !said.contains(char::is_control), "{said:?}");
            return;
        }
    };
    let whole = name.to_string();
    assert_eq!(whole.parse::<Reference>().expect("its own form is a name"), name);
    assert_eq!(whole.len(), name.place().len() + 1 + name.version().to_string().len());
    let version = name.version().to_string();
    assert!(matches!(name.version(), Version::Tag(tag) if !tag.is_empty()) || version.starts_with("sha256:"));
    let address = format!("https://{}/v2/{}/manifests/{version}", name.registry(), name.repository());
    let uri: Uri = address.parse().expect("it is an address");
    assert_eq!(uri.authority().expect("it has one").as_str(), name.registry());
    assert!(!name.registry().contains('@') && uri.host().is_some_and(|host| name.registry().starts_with(host)));
    assert_eq!((uri.path(), uri.query()), (format!("/v2/{}/manifests/{version}", name.repository()).as_str(), None));
    assert!(uri.path().split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != ".."), "{uri}");
});
