//! Generates the message types and the service code from `proto/`. Needs `protoc`.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let mut builder = tonic_prost_build::configure().message_attribute(
        ".",
        "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]",
    );
    builder = builder.enum_attribute(
        ".",
        "#[derive(serde::Serialize)] #[serde(rename_all = \"camelCase\")]",
    );
    // Fields of an enum are numbers in the generated code, and words for people.
    for (field, words) in [
        ("BackendAdmin.state", "admin_state"),
        ("NodeResult.state", "node_state"),
        ("NodeStatus.state", "node_state"),
        ("ApplyResponse.outcome", "outcome"),
        ("ApplyResponse.convergence", "convergence"),
        ("Change.change", "change_kind"),
    ] {
        let attribute = format!("#[serde(serialize_with = \"crate::words::{words}\")]");
        builder = builder.field_attribute(format!(".marchproxy.v1.{field}"), attribute);
    }
    builder.compile_protos(
        &[
            "proto/marchproxy/v1/document.proto",
            "proto/marchproxy/v1/node.proto",
            "proto/marchproxy/v1/control.proto",
        ],
        &["proto"],
    )
}
