//! Pulls an image into a store: `pull DIRECTORY INSECURE-REGISTRY NAME`. The tests end it in the middle.

use caisson_image::{ImageStore, Logins, Options, Reference, Registry};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, registry, name] = arguments.as_slice() else {
        eprintln!("usage: pull DIRECTORY INSECURE-REGISTRY NAME");
        std::process::exit(2);
    };
    if let Err(error) = pull(directory, registry, name).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

async fn pull(directory: &str, registry: &str, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    options.registries.add(registry, Registry { insecure: true, mirrors: Vec::new() })?;
    let store = ImageStore::open(directory, options).await?;
    let image = store.pull(name.parse::<Reference>()?, Logins::none()).finish().await?;
    println!("{}", image.id);
    Ok(())
}
