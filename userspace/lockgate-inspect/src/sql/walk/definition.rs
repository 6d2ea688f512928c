//! Statements that define, change or drop what is in the schema, and those that change who may do what.
//!
//! ddl is what changes the schema of one database; admin is what changes roles and privileges, reaches files, programs
//! or other servers, or needs a superuser.

use super::{
    Walk, inner, string,
    utility::{Told, relations},
};
use crate::sql::{
    tree::{self, Child},
    usage::{ColumnRef, Defined, Expr, Lineage, Place, Use},
};
use lockgate_model::sql::{RelationName, SqlClass, SqlEffect};
use pg_query::{
    NodeEnum,
    protobuf::{self, AlterTableType, Node, ObjectType, RangeVar},
};

impl Walk<'_> {
    /// What a definition is; None for nodes that define nothing.
    pub(super) fn define(&mut self, node: &NodeEnum) -> Option<Told> {
        Some(match node {
            NodeEnum::CreateStmt(create) => self.create_table(create, "create_table"),
            NodeEnum::CreateForeignTableStmt(create) => match &create.base_stmt {
                Some(base) => self.create_table(base, "create_foreign_table"),
                None => self.ddl("create_foreign_table"),
            },
            NodeEnum::CreateTableAsStmt(create) => self.create_table_as(create),
            NodeEnum::ViewStmt(view) => {
                self.raise(SqlClass::Ddl);
                self.effect(SqlEffect::ChangesSchema);
                if let Some(relation) = &view.view {
                    self.write(relation);
                }
                let query = match inner(&view.query) {
                    Some(NodeEnum::SelectStmt(select)) => Some(Box::new(self.query(select))),
                    Some(_) | None => None,
                };
                Told::new(
                    "create_view",
                    Lineage::Define { what: "a view", body: None, query, foreign: false },
                )
            }
            NodeEnum::RefreshMatViewStmt(refresh) => {
                self.written(refresh.relation.as_ref());
                self.ddl("refresh_materialized_view")
            }
            NodeEnum::IndexStmt(index) => self.index(index),
            NodeEnum::AlterTableStmt(alter) => self.alter_table(alter),
            NodeEnum::RenameStmt(rename) => self.rename(rename),
            NodeEnum::AlterObjectSchemaStmt(alter) => self.set_schema(alter),
            NodeEnum::AlterOwnerStmt(alter) => {
                self.written(alter.relation.as_ref());
                self.effect(SqlEffect::ChangesPrivileges);
                let kind = object(alter.object_type).alter;
                self.by_object(alter.object_type, kind)
            }
            NodeEnum::DropStmt(drop) => self.drop_objects(drop),
            NodeEnum::TruncateStmt(truncate) => {
                self.raise(SqlClass::Write);
                self.effect(SqlEffect::WritesRows);
                self.gathered.destroys = true;
                for relation in relations(&truncate.relations) {
                    self.write(relation);
                }
                Told { bounded: Some(false), ..Told::new("truncate", Lineage::Nothing) }
            }
            NodeEnum::RuleStmt(rule) => {
                self.written(rule.relation.as_ref());
                let told = self.define_over("create_rule", "a rule");
                self.search(node);
                told
            }
            NodeEnum::CreateTrigStmt(trigger) => {
                self.written(trigger.relation.as_ref());
                self.expr(trigger.when_clause.as_deref());
                self.define_over("create_trigger", "a trigger")
            }
            NodeEnum::CreatePolicyStmt(policy) => {
                self.effect(SqlEffect::ChangesPrivileges);
                self.policy("create_policy", policy.table.as_ref(), [&policy.qual, &policy.with_check])
            }
            NodeEnum::AlterPolicyStmt(policy) => {
                self.effect(SqlEffect::ChangesPrivileges);
                self.policy("alter_policy", policy.table.as_ref(), [&policy.qual, &policy.with_check])
            }
            NodeEnum::CreateFunctionStmt(create) => self.create_function(create, node),
            NodeEnum::AlterFunctionStmt(_) => self.ddl("alter_function"),
            NodeEnum::CommentStmt(comment) => {
                self.named_object(comment.objtype, comment.object.as_deref());
                self.ddl("comment")
            }
            NodeEnum::SecLabelStmt(label) => {
                self.named_object(label.objtype, label.object.as_deref());
                self.effect(SqlEffect::ChangesPrivileges);
                self.admin("security_label")
            }
            NodeEnum::CreateSeqStmt(create) => {
                self.written(create.sequence.as_ref());
                self.ddl("create_sequence")
            }
            NodeEnum::AlterSeqStmt(alter) => {
                self.written(alter.sequence.as_ref());
                self.ddl("alter_sequence")
            }
            NodeEnum::CreateSchemaStmt(create) => self.create_schema(create),
            NodeEnum::CreateStatsStmt(create) => {
                for relation in relations(&create.relations) {
                    self.write(relation);
                }
                self.ddl("create_statistics")
            }
            NodeEnum::AlterStatsStmt(_) => self.ddl("alter_statistics"),
            NodeEnum::CreateDomainStmt(create) => {
                self.search_all(&create.constraints);
                self.ddl("create_domain")
            }
            NodeEnum::AlterDomainStmt(alter) => {
                self.search(node);
                // C adds a constraint, V validates one (AlterDomainStmt in parsenodes.h).
                if matches!(alter.subtype.as_str(), "C" | "V") {
                    self.gathered.defines.insert(Defined::DomainCheck);
                }
                self.ddl("alter_domain")
            }
            NodeEnum::DefineStmt(define) => {
                let name = define.defnames.last().map(string).unwrap_or_default();
                self.defines(define.kind, name);
                let kind = object(define.kind).create;
                self.ddl(kind)
            }
            NodeEnum::CompositeTypeStmt(_) | NodeEnum::CreateEnumStmt(_) | NodeEnum::CreateRangeStmt(_) => {
                self.ddl("create_type")
            }
            NodeEnum::AlterEnumStmt(_) | NodeEnum::AlterTypeStmt(_) => self.ddl("alter_type"),
            NodeEnum::AlterCollationStmt(_) => self.ddl("alter_collation"),
            NodeEnum::CreateCastStmt(_) => {
                self.gathered.defines.insert(Defined::Cast);
                self.ddl("create_cast")
            }
            NodeEnum::CreateConversionStmt(_) => self.ddl("create_conversion"),
            NodeEnum::CreateOpClassStmt(_) => self.ddl("create_operator_class"),
            NodeEnum::CreateOpFamilyStmt(_) => self.ddl("create_operator_family"),
            NodeEnum::AlterOpFamilyStmt(_) => self.ddl("alter_operator_family"),
            NodeEnum::AlterOperatorStmt(_) => self.ddl("alter_operator"),
            NodeEnum::AlterTsdictionaryStmt(_) => self.ddl("alter_text_search_dictionary"),
            NodeEnum::AlterTsconfigurationStmt(_) => self.ddl("alter_text_search_configuration"),
            NodeEnum::AlterObjectDependsStmt(alter) => {
                let kind = object(alter.object_type).alter;
                self.ddl(kind)
            }
            NodeEnum::ReplicaIdentityStmt(_) => self.ddl("alter_table"),
            NodeEnum::AlterTableMoveAllStmt(_) => self.admin("alter_table"),
            NodeEnum::ImportForeignSchemaStmt(_) => {
                self.effect(SqlEffect::ChangesSchema);
                self.admin("import_foreign_schema")
            }
            other => return self.administer(other),
        })
    }

    /// Roles and privileges, servers and files, maintenance.
    fn administer(&mut self, node: &NodeEnum) -> Option<Told> {
        let privileges = |kind| Some((kind, true));
        let plain = |kind| Some((kind, false));
        let (kind, changes_privileges) = match node {
            NodeEnum::GrantStmt(grant) => {
                for relation in relations(&grant.objects) {
                    self.write(relation);
                }
                privileges(if grant.is_grant { "grant" } else { "revoke" })
            }
            NodeEnum::GrantRoleStmt(grant) => privileges(if grant.is_grant { "grant" } else { "revoke" }),
            NodeEnum::AlterDefaultPrivilegesStmt(_) => privileges("alter_default_privileges"),
            NodeEnum::CreateRoleStmt(_) => privileges("create_role"),
            NodeEnum::AlterRoleStmt(_) | NodeEnum::AlterRoleSetStmt(_) => privileges("alter_role"),
            NodeEnum::DropRoleStmt(_) => privileges("drop_role"),
            NodeEnum::DropOwnedStmt(_) => privileges("drop_owned"),
            NodeEnum::ReassignOwnedStmt(_) => privileges("reassign_owned"),
            NodeEnum::CreateUserMappingStmt(_) => privileges("create_user_mapping"),
            NodeEnum::AlterUserMappingStmt(_) => privileges("alter_user_mapping"),
            NodeEnum::DropUserMappingStmt(_) => privileges("drop_user_mapping"),
            NodeEnum::CreatedbStmt(_) => plain("create_database"),
            NodeEnum::AlterDatabaseStmt(_)
            | NodeEnum::AlterDatabaseSetStmt(_)
            | NodeEnum::AlterDatabaseRefreshCollStmt(_) => plain("alter_database"),
            NodeEnum::DropdbStmt(_) => plain("drop_database"),
            NodeEnum::CreateTableSpaceStmt(_) => plain("create_tablespace"),
            NodeEnum::AlterTableSpaceOptionsStmt(_) => plain("alter_tablespace"),
            NodeEnum::DropTableSpaceStmt(_) => plain("drop_tablespace"),
            NodeEnum::CreateExtensionStmt(_) => plain("create_extension"),
            NodeEnum::AlterExtensionStmt(_) | NodeEnum::AlterExtensionContentsStmt(_) => {
                plain("alter_extension")
            }
            NodeEnum::CreatePlangStmt(_) => plain("create_language"),
            NodeEnum::CreateFdwStmt(_) => plain("create_foreign_data_wrapper"),
            NodeEnum::AlterFdwStmt(_) => plain("alter_foreign_data_wrapper"),
            NodeEnum::CreateForeignServerStmt(_) => plain("create_server"),
            NodeEnum::AlterForeignServerStmt(_) => plain("alter_server"),
            NodeEnum::CreateEventTrigStmt(_) => plain("create_event_trigger"),
            NodeEnum::AlterEventTrigStmt(_) => plain("alter_event_trigger"),
            NodeEnum::CreateAmStmt(_) => plain("create_access_method"),
            NodeEnum::CreateTransformStmt(_) => plain("create_transform"),
            NodeEnum::CreatePublicationStmt(_) => plain("create_publication"),
            NodeEnum::AlterPublicationStmt(_) => plain("alter_publication"),
            NodeEnum::CreateSubscriptionStmt(_) => plain("create_subscription"),
            NodeEnum::AlterSubscriptionStmt(_) => plain("alter_subscription"),
            NodeEnum::DropSubscriptionStmt(_) => plain("drop_subscription"),
            NodeEnum::AlterSystemStmt(_) => plain("alter_system"),
            NodeEnum::LoadStmt(_) => {
                self.effect(SqlEffect::ServerFile);
                plain("load")
            }
            NodeEnum::CheckPointStmt(_) => plain("checkpoint"),
            NodeEnum::VacuumStmt(vacuum) => {
                for relation in &vacuum.rels {
                    if let Some(NodeEnum::VacuumRelation(relation)) = &relation.node {
                        self.written(relation.relation.as_ref());
                    }
                }
                plain(if vacuum.is_vacuumcmd { "vacuum" } else { "analyze" })
            }
            NodeEnum::ReindexStmt(reindex) => {
                self.written(reindex.relation.as_ref());
                plain("reindex")
            }
            NodeEnum::ClusterStmt(cluster) => {
                self.written(cluster.relation.as_ref());
                plain("cluster")
            }
            _ => None,
        }?;
        if changes_privileges {
            self.effect(SqlEffect::ChangesPrivileges);
        }
        Some(self.admin(kind))
    }

    fn ddl(&mut self, kind: &'static str) -> Told {
        self.raise(SqlClass::Ddl);
        self.effect(SqlEffect::ChangesSchema);
        Told::new(kind, Lineage::Nothing)
    }

    fn admin(&mut self, kind: &'static str) -> Told {
        self.raise(SqlClass::Admin);
        Told::new(kind, Lineage::Nothing)
    }

    fn define_over(&mut self, kind: &'static str, what: &'static str) -> Told {
        Told { lineage: Lineage::Define { what, body: None, query: None, foreign: false }, ..self.ddl(kind) }
    }

    fn by_object(&mut self, object_type: i32, kind: &'static str) -> Told {
        if object(object_type).admin { self.admin(kind) } else { self.ddl(kind) }
    }

    fn written(&mut self, relation: Option<&RangeVar>) {
        if let Some(relation) = relation {
            self.write(relation);
        }
    }

    /// Looks for functions, columns and relations in whatever hangs here.
    fn search(&mut self, node: &NodeEnum) {
        let class = self.gathered.class;
        let mut out = Expr::default();
        let mut nested = Vec::new();
        tree::children(node, &mut |child| nested.push(child));
        for child in nested {
            match child {
                Child::Node(node) => {
                    if self.change(node).is_none() {
                        self.expr_into(node, None, &mut out);
                    }
                }
                Child::Select(select) => {
                    self.query(select);
                }
                Child::Relation(_) | Child::Type(_) => {}
            }
        }
        // What a definition would do later is not what it does now.
        self.gathered.class = class;
    }

    fn search_all(&mut self, nodes: &[Node]) {
        for node in nodes.iter().filter_map(|node| node.node.as_ref()) {
            self.search(node);
        }
    }

    fn create_table(&mut self, create: &protobuf::CreateStmt, kind: &'static str) -> Told {
        self.written(create.relation.as_ref());
        for parent in relations(&create.inh_relations) {
            self.read(parent);
        }
        for element in create.table_elts.iter().filter_map(|element| element.node.as_ref()) {
            match element {
                NodeEnum::TableLikeClause(like) => {
                    if let Some(relation) = &like.relation {
                        self.read(relation);
                    }
                }
                other => self.column_or_constraint(other, &mut Vec::new()),
            }
        }
        self.ddl(kind)
    }

    /// Expressions and foreign keys of a column or a table constraint.
    fn column_or_constraint(&mut self, node: &NodeEnum, places: &mut Vec<(Place, Expr)>) {
        match node {
            NodeEnum::ColumnDef(column) => {
                if let Some(default) = &column.raw_default {
                    let expr = self.expr(Some(default));
                    places.push((Place::Definition, expr));
                }
                for constraint in column.constraints.iter().filter_map(|node| node.node.as_ref()) {
                    self.column_or_constraint(constraint, places);
                }
            }
            NodeEnum::Constraint(constraint) => {
                if let Some(expr) = &constraint.raw_expr {
                    let expr = self.expr(Some(expr));
                    places.push((Place::Definition, expr));
                }
                if let Some(condition) = &constraint.where_clause {
                    let expr = self.expr(Some(condition));
                    places.push((Place::Definition, expr));
                }
                if let Some(referenced) = &constraint.pktable {
                    self.read(referenced);
                    // Whether every value is found elsewhere is an answer.
                    for name in &constraint.fk_attrs {
                        let columns = vec![own_column(string(name))];
                        places.push((Place::Definition, Expr { columns, ..Expr::default() }));
                    }
                }
            }
            _ => {}
        }
    }

    fn create_table_as(&mut self, create: &protobuf::CreateTableAsStmt) -> Told {
        self.raise(SqlClass::Ddl);
        self.effect(SqlEffect::ChangesSchema);
        if let Some(relation) = create.into.as_ref().and_then(|into| into.rel.as_ref()) {
            self.write(relation);
        }
        let is_view = create.objtype == ObjectType::ObjectMatview as i32;
        let kind = if is_view { "create_materialized_view" } else { "create_table" };
        match inner(&create.query) {
            Some(NodeEnum::SelectStmt(select)) => {
                let query = self.query(select);
                let lineage = if is_view {
                    Lineage::Define {
                        what: "a materialized view",
                        body: None,
                        query: Some(Box::new(query)),
                        foreign: false,
                    }
                } else {
                    Lineage::Store(query)
                };
                Told::new(kind, lineage)
            }
            Some(NodeEnum::ExecuteStmt(execute)) => {
                let told = self.dispatch(&NodeEnum::ExecuteStmt(execute.clone()));
                let lineage = match told.lineage {
                    Lineage::Rows(query) => Lineage::Store(query),
                    _ => Lineage::Unknown,
                };
                Told {
                    opaque: told.opaque,
                    control: super::utility::only_settings(told.control),
                    ..Told::new(kind, lineage)
                }
            }
            _ => Told::new(kind, Lineage::Unknown),
        }
    }

    fn index(&mut self, index: &protobuf::IndexStmt) -> Told {
        let relation = index.relation.as_ref().map(|relation| self.write(relation));
        let mut places = Vec::new();
        for element in index.index_params.iter().filter_map(|node| node.node.as_ref()) {
            if let NodeEnum::IndexElem(element) = element {
                if !element.name.is_empty() {
                    self.gathered.columns.insert(element.name.clone());
                }
                if element.expr.is_some() {
                    let expr = self.expr(element.expr.as_deref());
                    places.push((Place::Definition, expr));
                }
            }
        }
        if index.where_clause.is_some() {
            let expr = self.expr(index.where_clause.as_deref());
            places.push((Place::Definition, expr));
        }
        let told = self.ddl("create_index");
        match relation {
            Some(relation) => Told { lineage: Lineage::Attach { relation, places }, ..told },
            None => told,
        }
    }

    /// A column or an expression of a conflict target.
    pub(super) fn index_element(&mut self, element: &protobuf::IndexElem) -> Expr {
        let mut expr = self.expr(element.expr.as_deref());
        if !element.name.is_empty() {
            self.gathered.columns.insert(element.name.clone());
            expr.columns.push(Use {
                column: ColumnRef { qualifier: Vec::new(), name: Some(element.name.clone()) },
                place: None,
            });
        }
        expr
    }

    fn alter_table(&mut self, alter: &protobuf::AlterTableStmt) -> Told {
        let relation = alter.relation.as_ref().map(|relation| self.write(relation));
        let relation = relation.unwrap_or_else(|| RelationName { schema: None, name: String::new() });
        let mut places = Vec::new();
        let mut lineages = Vec::new();
        let mut drops = false;
        for command in alter.cmds.iter().filter_map(|node| node.node.as_ref()) {
            let NodeEnum::AlterTableCmd(command) = command else { continue };
            if !command.name.is_empty() && alter.objtype == ObjectType::ObjectTable as i32 {
                self.gathered.columns.extend(column_of(command));
            }
            let definition = inner(&command.def);
            match AlterTableType::try_from(command.subtype) {
                Ok(AlterTableType::AtChangeOwner) => self.effect(SqlEffect::ChangesPrivileges),
                Ok(
                    AlterTableType::AtEnableRowSecurity
                    | AlterTableType::AtDisableRowSecurity
                    | AlterTableType::AtForceRowSecurity
                    | AlterTableType::AtNoForceRowSecurity,
                ) => self.effect(SqlEffect::ChangesPrivileges),
                Ok(AlterTableType::AtDropColumn) => drops = true,
                Ok(AlterTableType::AtAlterColumnType) => {
                    // Every value goes through a cast, which can fail, or through checks of the new type.
                    let mut expr = match definition {
                        Some(NodeEnum::ColumnDef(column)) => self.expr(column.raw_default.as_deref()),
                        Some(_) | None => Expr::default(),
                    };
                    expr.columns.push(own_column(&command.name));
                    places.push((Place::Definition, expr));
                }
                Ok(AlterTableType::AtAddInherit | AlterTableType::AtDropInherit) => {
                    let other = match definition {
                        Some(NodeEnum::RangeVar(parent)) => Some(self.write(parent)),
                        _ => None,
                    };
                    lineages.push(moved("change the inheritance of", &relation, other));
                }
                Ok(
                    AlterTableType::AtAttachPartition
                    | AlterTableType::AtDetachPartition
                    | AlterTableType::AtDetachPartitionFinalize,
                ) => {
                    let other = match definition {
                        Some(NodeEnum::PartitionCmd(partition)) => {
                            partition.name.as_ref().map(|name| self.write(name))
                        }
                        _ => None,
                    };
                    lineages.push(moved("attach or detach a partition of", &relation, other));
                }
                Ok(AlterTableType::AtAddOf | AlterTableType::AtDropOf) => {
                    lineages.push(moved("change the type of", &relation, None));
                }
                _ => match definition {
                    Some(node @ (NodeEnum::ColumnDef(_) | NodeEnum::Constraint(_))) => {
                        self.column_or_constraint(node, &mut places);
                    }
                    Some(node) => {
                        let mut expr = Expr::default();
                        self.expr_into(node, None, &mut expr);
                        places.push((Place::Definition, expr));
                    }
                    None => {}
                },
            }
        }
        let kind = object(alter.objtype).alter;
        self.gathered.destroys |= drops;
        let told = self.ddl(kind);
        if !places.is_empty() {
            lineages.push(Lineage::Attach { relation, places });
        }
        Told { lineage: Lineage::Many(lineages), ..told }
    }

    /// Notes that code gets this name, or had it.
    fn defines(&mut self, object_type: i32, name: &str) {
        let defined = match ObjectType::try_from(object_type) {
            Ok(
                ObjectType::ObjectFunction
                | ObjectType::ObjectProcedure
                | ObjectType::ObjectRoutine
                | ObjectType::ObjectAggregate,
            ) => Defined::Function(name.to_owned()),
            Ok(ObjectType::ObjectOperator) => Defined::Operator(name.to_owned()),
            _ => return,
        };
        self.gathered.defines.insert(defined);
    }

    fn rename(&mut self, rename: &protobuf::RenameStmt) -> Told {
        let relation = rename.relation.as_ref().map(|relation| self.write(relation));
        let kind_of = ObjectType::try_from(rename.rename_type);
        self.defines(rename.rename_type, &rename.newname);
        if let Some(NodeEnum::ObjectWithArgs(old)) = inner(&rename.object) {
            self.defines(rename.rename_type, old.objname.last().map(string).unwrap_or_default());
        }
        let is_column = matches!(kind_of, Ok(ObjectType::ObjectColumn | ObjectType::ObjectAttribute));
        if is_column {
            self.gathered.columns.insert(rename.subname.clone());
        }
        let kind = match kind_of {
            Ok(ObjectType::ObjectColumn | ObjectType::ObjectAttribute | ObjectType::ObjectTabconstraint) => {
                object(rename.relation_type).alter
            }
            _ => object(rename.rename_type).alter,
        };
        let admin = object(rename.rename_type).admin;
        let told = if admin { self.admin(kind) } else { self.ddl(kind) };
        let renames_data = matches!(
            kind_of,
            Ok(ObjectType::ObjectColumn
                | ObjectType::ObjectAttribute
                | ObjectType::ObjectTable
                | ObjectType::ObjectView
                | ObjectType::ObjectMatview
                | ObjectType::ObjectForeignTable)
        );
        let lineage = match relation {
            Some(relation) if renames_data => Lineage::Rename {
                what: "rename",
                relations: vec![relation],
                column: is_column.then(|| rename.subname.clone()),
            },
            // Every table of a schema that is renamed gets another name.
            None if matches!(kind_of, Ok(ObjectType::ObjectSchema)) => Lineage::Rename {
                what: "rename the schema of",
                relations: vec![RelationName { schema: Some(rename.subname.clone()), name: "*".to_owned() }],
                column: None,
            },
            _ => Lineage::Nothing,
        };
        Told { lineage, ..told }
    }

    fn set_schema(&mut self, alter: &protobuf::AlterObjectSchemaStmt) -> Told {
        let relation = alter.relation.as_ref().map(|relation| self.write(relation));
        let kind = object(alter.object_type).alter;
        let told = self.ddl(kind);
        match relation {
            Some(relation) => Told { lineage: moved("set the schema of", &relation, None), ..told },
            None => told,
        }
    }

    fn drop_objects(&mut self, drop: &protobuf::DropStmt) -> Told {
        for dropped in &drop.objects {
            self.named_object(drop.remove_type, Some(dropped));
        }
        self.gathered.destroys = true;
        let kind = object(drop.remove_type).drop;
        self.by_object(drop.remove_type, kind)
    }

    /// A relation named by an object reference (DROP, COMMENT): a list of its parts; rules, triggers, policies and columns
    /// name it and one part more.
    fn named_object(&mut self, object_type: i32, node: Option<&Node>) {
        let Some(NodeEnum::List(list)) = node.and_then(|node| node.node.as_ref()) else { return };
        let parts: Vec<&str> = list.items.iter().map(string).collect();
        let parts = match ObjectType::try_from(object_type) {
            Ok(
                ObjectType::ObjectTable
                | ObjectType::ObjectView
                | ObjectType::ObjectMatview
                | ObjectType::ObjectForeignTable
                | ObjectType::ObjectSequence,
            ) => parts.as_slice(),
            Ok(
                ObjectType::ObjectColumn
                | ObjectType::ObjectRule
                | ObjectType::ObjectTrigger
                | ObjectType::ObjectPolicy
                | ObjectType::ObjectTabconstraint,
            ) => parts.split_last().map_or(&[][..], |(_, rest)| rest),
            _ => return,
        };
        let Some((name, schema)) = parts.split_last() else { return };
        let relation = RangeVar {
            relname: (*name).to_owned(),
            schemaname: schema.last().map(|schema| (*schema).to_owned()).unwrap_or_default(),
            ..RangeVar::default()
        };
        self.write(&relation);
    }

    fn policy(
        &mut self,
        kind: &'static str,
        table: Option<&RangeVar>,
        conditions: [&Option<Box<Node>>; 2],
    ) -> Told {
        let relation = table.map(|table| self.write(table));
        let mut places = Vec::new();
        for condition in conditions.into_iter().flatten() {
            let expr = self.expr(Some(condition));
            places.push((Place::Definition, expr));
        }
        let told = self.ddl(kind);
        match relation {
            Some(relation) => Told { lineage: Lineage::Attach { relation, places }, ..told },
            None => told,
        }
    }

    fn create_schema(&mut self, create: &protobuf::CreateSchemaStmt) -> Told {
        let mut lineages = Vec::new();
        for element in create.schema_elts.iter().filter_map(|node| node.node.as_ref()) {
            if let Some(told) = self.define(element) {
                lineages.push(told.lineage);
            }
        }
        Told { lineage: Lineage::Many(lineages), ..self.ddl("create_schema") }
    }

    fn create_function(&mut self, create: &protobuf::CreateFunctionStmt, node: &NodeEnum) -> Told {
        let language = language(&create.options);
        self.defines(
            ObjectType::ObjectFunction as i32,
            create.funcname.last().map(string).unwrap_or_default(),
        );
        let kind = if create.is_procedure { "create_procedure" } else { "create_function" };
        let definer = create.options.iter().any(|option| match &option.node {
            Some(NodeEnum::DefElem(option)) => {
                option.defname == "security" && super::utility::switched_on(option)
            }
            _ => false,
        });
        if definer {
            self.effect(SqlEffect::ChangesPrivileges);
        }
        if create.sql_body.is_some() {
            self.search(node);
        }
        let told = if untrusted(&language) {
            self.effect(SqlEffect::ServerFile);
            self.effect(SqlEffect::ChangesSchema);
            self.admin(kind)
        } else {
            self.ddl(kind)
        };
        let body = Some(body(&create.options));
        let foreign = !readable(&language);
        Told { lineage: Lineage::Define { what: "a function", body, query: None, foreign }, ..told }
    }
}

/// A column of the relation that is altered.
fn own_column(name: &str) -> Use {
    Use { column: ColumnRef { qualifier: Vec::new(), name: Some(name.to_owned()) }, place: None }
}

fn moved(what: &'static str, relation: &RelationName, other: Option<RelationName>) -> Lineage {
    Lineage::Rename {
        what,
        relations: std::iter::once(relation.clone()).chain(other).collect(),
        column: None,
    }
}

fn column_of(command: &protobuf::AlterTableCmd) -> Option<String> {
    matches!(
        AlterTableType::try_from(command.subtype),
        Ok(AlterTableType::AtColumnDefault
            | AlterTableType::AtDropNotNull
            | AlterTableType::AtSetNotNull
            | AlterTableType::AtDropColumn
            | AlterTableType::AtAlterColumnType
            | AlterTableType::AtSetStatistics
            | AlterTableType::AtSetStorage
            | AlterTableType::AtSetExpression
            | AlterTableType::AtDropExpression)
    )
    .then(|| command.name.clone())
}

/// The language of a function or a DO block.
pub(super) fn language(options: &[Node]) -> String {
    option(options, "language").map(string_of).unwrap_or_else(|| "plpgsql".to_owned()).to_ascii_lowercase()
}

/// The text of a function or a DO block.
pub(super) fn body(options: &[Node]) -> String {
    option(options, "as").map(string_of).unwrap_or_default()
}

/// Languages in which a name stands as it is: others can put one together while they run.
pub(super) fn readable(language: &str) -> bool {
    matches!(language, "sql" | "plpgsql")
}

/// Languages whose functions can do anything that the server's process can. By custom their names end in u.
pub(super) fn untrusted(language: &str) -> bool {
    !matches!(
        language,
        "sql" | "plpgsql" | "plperl" | "pltcl" | "plv8" | "plrust" | "pljava" | "pllua" | "pgtle"
    )
}

fn option<'a>(options: &'a [Node], name: &str) -> Option<&'a Node> {
    options.iter().find_map(|option| match &option.node {
        Some(NodeEnum::DefElem(option)) if option.defname == name => option.arg.as_deref(),
        _ => None,
    })
}

fn string_of(node: &Node) -> String {
    match &node.node {
        Some(NodeEnum::List(list)) => list.items.iter().map(string).collect::<Vec<_>>().join(" "),
        _ => string(node).to_owned(),
    }
}

/// How statements on a kind of object are called, and whether they are admin.
struct Object {
    create: &'static str,
    alter: &'static str,
    drop: &'static str,
    admin: bool,
}

macro_rules! object_names {
    ($($variant:ident => $name:literal $($admin:ident)?,)*) => {
        fn object(object_type: i32) -> Object {
            match ObjectType::try_from(object_type) {
                $(Ok(ObjectType::$variant) => Object {
                    create: concat!("create_", $name),
                    alter: concat!("alter_", $name),
                    drop: concat!("drop_", $name),
                    admin: object_names!(@admin $($admin)?),
                },)*
                Ok(ObjectType::Undefined) | Err(_) => {
                    Object { create: "create_object", alter: "alter_object", drop: "drop_object", admin: true }
                }
            }
        }
    };
    (@admin admin) => { true };
    (@admin) => { false };
}

object_names! {
    ObjectAccessMethod => "access_method" admin,
    ObjectAggregate => "aggregate",
    ObjectAmop => "operator_family",
    ObjectAmproc => "operator_family",
    ObjectAttribute => "type",
    ObjectCast => "cast",
    ObjectColumn => "table",
    ObjectCollation => "collation",
    ObjectConversion => "conversion",
    ObjectDatabase => "database" admin,
    ObjectDefault => "table",
    ObjectDefacl => "default_privileges" admin,
    ObjectDomain => "domain",
    ObjectDomconstraint => "domain",
    ObjectEventTrigger => "event_trigger" admin,
    ObjectExtension => "extension" admin,
    ObjectFdw => "foreign_data_wrapper" admin,
    ObjectForeignServer => "server" admin,
    ObjectForeignTable => "foreign_table",
    ObjectFunction => "function",
    ObjectIndex => "index",
    ObjectLanguage => "language" admin,
    ObjectLargeobject => "large_object",
    ObjectMatview => "materialized_view",
    ObjectOpclass => "operator_class",
    ObjectOperator => "operator",
    ObjectOpfamily => "operator_family",
    ObjectParameterAcl => "parameter" admin,
    ObjectPolicy => "policy",
    ObjectProcedure => "procedure",
    ObjectPublication => "publication" admin,
    ObjectPublicationNamespace => "publication" admin,
    ObjectPublicationRel => "publication" admin,
    ObjectRole => "role" admin,
    ObjectRoutine => "routine",
    ObjectRule => "rule",
    ObjectSchema => "schema",
    ObjectSequence => "sequence",
    ObjectSubscription => "subscription" admin,
    ObjectStatisticExt => "statistics",
    ObjectTabconstraint => "table",
    ObjectTable => "table",
    ObjectTablespace => "tablespace" admin,
    ObjectTransform => "transform" admin,
    ObjectTrigger => "trigger",
    ObjectTsconfiguration => "text_search_configuration",
    ObjectTsdictionary => "text_search_dictionary",
    ObjectTsparser => "text_search_parser",
    ObjectTstemplate => "text_search_template",
    ObjectType => "type",
    ObjectUserMapping => "user_mapping" admin,
    ObjectView => "view",
}
