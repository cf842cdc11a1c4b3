//! Tells the engine what the operator's templates and the dialects have kept warm, as they are now.

use std::{sync::Arc, time::Duration};

use caisson_core::SandboxSpec;

use super::{Read, Template, TemplateFolder, blocking};
use crate::{app::App, dialects, native::types::CreateBody};

/// Between two looks at the files. A request looks itself.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Until it is dropped.
pub(crate) async fn keep_warm(app: Arc<App>) {
    if !app.operator.has_pool() {
        return;
    }
    loop {
        match blocking(app.config.templates.as_ref(), TemplateFolder::all).await {
            Ok(all) => {
                let of_templates = all.into_iter().flatten().filter_map(wanted);
                app.operator.keep_warm(of_templates.chain(dialects::kept_warm(&app.config)).collect()).await;
            }
            Err(error) => tracing::warn!(%error, "Templates could not be read"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The sandbox of a template that says how many are kept.
fn wanted((name, read): (String, Read)) -> Option<SandboxSpec> {
    let recipe = read.ok().filter(|recipe| recipe.min_warm.is_some() || recipe.max_warm.is_some())?;
    let template = Template { name: name.parse().ok()?, owner: None, recipe };
    // It was checked when it was read.
    Some(template.create(CreateBody::default()).ok()?.spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_templates_that_say_how_many_are_kept_warm() {
        let of = |recipe: serde_json::Value| wanted(("t".to_owned(), Ok(Arc::new(serde_json::from_value(recipe).unwrap()))));
        assert!(of(json!({})).is_none());
        let spec = of(json!({"min_warm": 2, "env": {"A": "t"}})).unwrap();
        let warm = spec.recipe.warm.unwrap();
        assert_eq!((warm.min, warm.max, warm.env["A"].as_str(), spec.env["A"].as_str()), (2, 8, "t", "t"));
        assert_eq!(of(json!({"min_warm": 9})).unwrap().recipe.warm.unwrap().max, 9);
        let warm = of(json!({"max_warm": 3})).unwrap().recipe.warm.unwrap();
        assert_eq!((warm.min, warm.max, warm.owner), (0, 3, None));
        assert!(wanted(("t".to_owned(), Err("broken".to_owned()))).is_none());
    }
}
