//! Pulls that are killed at any moment leave nothing that is half there.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use caisson_image::{ImageStore, Logins};

use crate::{
    fixture::{Made, Place, noise, reference, tar},
    tools::{DockerRegistry, Ended, Known},
};

/// Moments at which a pull is killed, from its start to about its end.
const STEPS: u32 = 10;

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let places = test.ancestors().skip(1).take(3).map(|directory| directory.join("examples/pull"));
    places.into_iter().find(|path| path.is_file()).expect("cargo builds examples before tests")
}

#[tokio::test]
async fn r7_1_a_pull_that_is_killed_leaves_nothing_half_visible() {
    let registry = DockerRegistry::start();
    let layers: Vec<_> = (0..5)
        .map(|layer| {
            let (bytes, names) = (noise(layer, 600_000), (0..200).map(|n| format!("d{}/f{n}-{layer}", n % 7)).collect::<Vec<_>>());
            tar(&names.iter().zip(bytes.chunks(3000)).map(|(name, content)| (name.as_str(), content)).collect::<Vec<_>>())
        })
        .collect();
    let made = Made::new(&layers);
    registry.fill(made.layout("1").path(), "killed:1", &[]);
    let whole = Place::with(registry.options()).await;
    let name = registry.name("killed:1");
    whole.store.pull(reference(&name), Logins::none()).finish().await.unwrap();
    let start = |place: &Place| {
        let mut child = Command::new(program());
        child.args([place.root().as_os_str(), registry.host.as_ref(), name.as_ref()]).stdout(Stdio::null()).stderr(Stdio::null());
        Ended(child.spawn().unwrap())
    };
    let begun = Instant::now();
    assert!(start(&Place::with(registry.options()).await).0.wait().unwrap().success());
    let all_of_it = begun.elapsed();
    let (mut half, mut done) = (0, 0);
    for step in 0..STEPS {
        let place = Place::with(registry.options()).await;
        let child = start(&place);
        tokio::time::sleep(all_of_it * step / STEPS).await;
        drop(child);
        // What is there is whole.
        for layer in fs::read_dir(place.store.layers_dir()).unwrap() {
            let layer = layer.unwrap().path();
            let expected = whole.store.layers_dir().join(layer.file_name().unwrap());
            assert_eq!(crate::tools::tree(&layer), crate::tools::tree(&expected));
            half += 1;
        }
        let there = place.store.list().await.unwrap().len();
        done += there;
        if there == 1 {
            place.store.resolve(&reference(&name)).await.unwrap();
        }
        // What was begun goes when the store is opened next, and not before its process has gone.
        let again = ImageStore::open(place.root(), registry.options()).await.unwrap();
        place.nothing_begun();
        let image = again.pull(reference(&name), Logins::none()).finish().await.unwrap();
        assert_eq!(image.layers, made.diff_ids);
        assert_eq!(place.content(), whole.content());
    }
    // Otherwise the moments were not those that matter.
    assert!(half > 0 && done < STEPS as usize, "{half} layers, {done} images");
}
