//! What all operations of this API have in common, for the description.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::{
    NAME,
    answer::{ModboxError, ModboxFailure, ModboxProblem},
};
use crate::dialects;

pub(super) fn describe(document: &mut OpenApi) {
    let about = "The API of Modbox, for its clients. Unknown fields are passed over, null is as good as absent, and errors come in an envelope. \
                 `X-Workspace-Id` names a workspace; the caller's own when absent";
    document.tags.get_or_insert_default().push(TagBuilder::new().name(NAME).description(Some(about)).build());
    let components = document.components.get_or_insert_default();
    components.schemas.insert(ModboxError::name().into_owned(), ModboxError::schema());
    components.schemas.insert(ModboxFailure::name().into_owned(), ModboxFailure::schema());
    components.schemas.insert(ModboxProblem::name().into_owned(), ModboxProblem::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token, or a key of the sandbox's own")).build();
    components.add_security_scheme("modbox", SecurityScheme::Http(bearer));
    let failure = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/json", utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name(ModboxError::name())))))
        .build();
    let none: [&str; 0] = [];
    let own = document.paths.paths.iter_mut().filter(|(path, _)| dialects::of(path).is_some_and(|dialect| dialect.name == NAME));
    for (_, item) in own {
        for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten() {
            operation.responses.responses.insert("default".into(), failure.clone().into());
            operation.security = Some(vec![SecurityRequirement::new("modbox", none)]);
        }
    }
}
