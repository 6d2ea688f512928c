"""Each event against the published schema of its class, as PyPI's ocsf-json-schema packages it (Apache-2.0); how many there are of each."""
import json, sys
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

schema = OcsfJsonSchemaEmbedded(get_ocsf_schema('1.5.0'))
validators, classes = {}, {}
for line in open(sys.argv[1]):
    event = json.loads(line)
    uid = event['class_uid']
    profiles = tuple(event['metadata'].get('profiles', []))
    if (uid, profiles) not in validators:
        validators[uid, profiles] = Draft202012Validator(schema.get_class_schema(schema.lookup_class_name_from_uid(uid), list(profiles)))
    errors = [f'{list(e.absolute_path)}: {e.message[:300]}' for e in validators[uid, profiles].iter_errors(event)]
    assert not errors, (uid, errors, event)
    assert event['type_uid'] == uid * 100 + event['activity_id'], event
    classes[uid] = classes.get(uid, 0) + 1
print(json.dumps(classes))
