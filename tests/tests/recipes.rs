//! The recipes of images: made of packages by the real registries, looked at from inside, and made again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use caisson_tests::{Client, Home, Ran, Server, Setup, Value, json, program};

/// The folder of the recipes.
fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images").canonicalize().unwrap()
}

/// A recipe, with the registries as whoever runs the tests has them configured: that is in the environment and in files of the home directory.
fn recipe(home: &Home, name: &str, arguments: &[&str], more: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(images().join(name).join("build"));
    command.args(arguments).stdin(Stdio::null()).current_dir(home.path());
    command.env("CAISSON", program()).env("CAISSON_DATA_DIR", home.data()).env("TMPDIR", home.path().join("tmp"));
    command.envs(more.iter().copied()).output().expect("the recipe can be started").into()
}

#[track_caller]
fn inspect(home: &Home, name: &str) -> Value {
    home.caisson(["image", "inspect", name]).exited(0).out().parse().unwrap()
}

fn layers(about: &Value) -> Vec<&str> {
    about["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap()).collect()
}

/// Layers that are finished, but for one.
fn all_but(from: &Path, to: &Path, left_out: &str) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with(left_out) {
            fs::hard_link(entry.path(), to.join(name)).unwrap();
        }
    }
}

/// One test, because making layers is what costs, and all of it needs them.
#[test]
fn both_images_are_made_of_packages_and_are_what_they_say() {
    let server = Setup::default().env("CAISSON_IMAGE_ALIASES", "modbox/code-exec=code").start();
    let home = server.home();
    let (kept, again) = (home.path().join("layers"), home.path().join("again"));
    let made = recipe(home, "code", &["--layers", kept.to_str().unwrap()], &[]).exited(0);
    for version in ["GNU bash, version 5.2.", "Python 3.12.", "v22.", "go version go1.23."] {
        assert!(made.out().contains(version), "{}", made.out());
    }
    let code = inspect(home, "code:latest");
    assert_eq!((&code["config"]["work_dir"], &code["config"]["cmd"]), (&json!("/workspace"), &json!(["bash"])), "{code}");
    assert_eq!(code["config"]["labels"].get("org.caisson.missing"), None, "{code}");
    assert_eq!(layers(&code).len(), 4);

    // The layers that do not come as they are from a registry are the same when they are made again, and so is the image.
    fs::create_dir(&again).unwrap();
    for entry in fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("base") || name.starts_with("node") {
            fs::hard_link(entry.path(), again.join(name)).unwrap();
        }
    }
    let made = recipe(home, "code", &["--layers", again.to_str().unwrap(), "--name", "again:1"], &[]).exited(0);
    assert!(made.err().contains("making the layer go") && !made.err().contains("making the layer node"), "{}", made.err());
    assert_eq!(inspect(home, "again:1")["digest"], code["digest"], "built twice it is one image");
    fs::remove_dir_all(&again).unwrap();

    a_language_that_cannot_be_had_is_told(home, &kept);

    let made = recipe(home, "data-science", &["--layers", kept.to_str().unwrap()], &[]).exited(0);
    for library in ["numpy ", "pandas ", "scipy ", "sklearn ", "cv2 ", "weasyprint ", "PyPDF2 ", "ffmpeg version", "ffprobe version"] {
        assert!(made.out().contains(library), "{}", made.out());
    }
    let science = inspect(home, "data-science:latest");
    assert_eq!(layers(&science)[..2], layers(&code)[..2], "what both have is there once");
    fs::remove_dir_all(&kept).unwrap();
    inside(&server);
    server.finish();
}

/// npm has nothing and asks nobody.
fn a_language_that_cannot_be_had_is_told(home: &Home, kept: &Path) {
    let (without, cache) = (home.path().join("without"), home.path().join("npm"));
    all_but(kept, &without, "node");
    let offline = [("npm_config_offline", "true"), ("npm_config_cache", cache.to_str().unwrap())];
    let arguments = ["--layers", without.to_str().unwrap(), "--name", "partial:1"];
    let made = recipe(home, "code", &arguments, &offline).exited(3);
    assert!(made.err().contains("node cannot be had, and partial:1 is without it: npm says no: "), "{}", made.err());
    assert!(!made.out().contains("v22."), "{}", made.out());
    let label = inspect(home, "partial:1")["config"]["labels"]["org.caisson.missing"].as_str().unwrap().to_owned();
    assert!(label.starts_with("node: npm says no: ") && !label.contains("://"), "{label}");
    let none = home.caisson(["run", "--pull", "never", "--image", "partial:1", "--", "node", "--version"]);
    assert_ne!(none.status.code(), Some(0), "nothing else has taken its place");
    let allowed = recipe(home, "code", &[&arguments[..], &["--allow-missing", "node"]].concat(), &offline).exited(0);
    assert!(allowed.err().contains("node cannot be had"), "{}", allowed.err());
    fs::remove_dir_all(&without).unwrap();
    fs::remove_dir_all(&cache).unwrap();
}

/// What clients see, Modbox's among them.
fn inside(server: &Server) {
    let run = |image: &str, language: &str, code: &str| {
        let result = server.run(&json!({"image": image, "language": language, "code": code}));
        assert_eq!(result["exit_code"], 0, "{result}");
        result["stdout"].as_str().unwrap().to_owned()
    };
    let report = "import ssl, sqlite3, ctypes, lzma, zoneinfo, sys\nprint(sys.version_info[:2], zoneinfo.ZoneInfo('Europe/Paris').key, \
                  len(ssl.create_default_context().get_ca_certs()) > 50)\n";
    assert_eq!(run("code", "python", report), "(3, 12) Europe/Paris True\n");
    assert!(run("code", "node", "console.log(process.version)").starts_with("v22."));
    assert!(run("code", "bash", "echo $BASH_VERSION").starts_with("5.2."));
    let program =
        "package main\nimport (\"fmt\"; \"net/http\"; \"runtime\")\nfunc main() { fmt.Println(runtime.Version(), http.StatusOK) }\n";
    let said = run("code", "go", program);
    assert!(said.starts_with("go1.23.") && said.ends_with(" 200\n"), "{said}");
    let work = "import numpy, pandas, weasyprint, pydub, PIL.Image, matplotlib.pyplot as plt\n\
                plt.plot([1, 2]); plt.savefig('a.png'); assert PIL.Image.open('a.png').size == (640, 480)\n\
                assert weasyprint.HTML(string='<p>x').write_pdf()[:4] == b'%PDF'\n\
                pydub.AudioSegment.silent(200).export('a.mp3', format='mp3')\n\
                print(len(pydub.AudioSegment.from_file('a.mp3')) >= 200, pandas.DataFrame({'a': numpy.arange(3)})['a'].sum())\n";
    assert_eq!(run("data-science", "python", work), "True 3\n");

    // The one line of the documentation: what Modbox calls `code-exec` is this image.
    let made = server.post("/sandboxes/provision", &json!({"image": "modbox/code-exec"})).expect(201).json();
    let wait = format!("/sandboxes/{}/wait", made["sandbox_id"].as_str().unwrap());
    assert_eq!(server.post(&wait, &json!({})).expect(200).json()["ready"], true);
    let api = made["endpoint"]["api_url"].as_str().unwrap().split_once("://").unwrap().1.split_once('/').unwrap().1.to_owned();
    let bearer = Client { key: Some(made["endpoint"]["access_token"].as_str().unwrap().to_owned()), ..server.client.clone() };
    let versions = json!({"command": "python3 --version; node --version; bash --version; go version"});
    let said = bearer.request("POST", &format!("/{api}/exec")).json(&versions).send().expect(200).json();
    let said = said["stdout"].as_str().unwrap();
    assert!(["Python 3.12.", "v22.", "version 5.2.", "go1.23."].iter().all(|version| said.contains(version)), "{said}");
    server.request("DELETE", &format!("/sandboxes/{}", made["sandbox_id"].as_str().unwrap())).send().expect(200);
}
