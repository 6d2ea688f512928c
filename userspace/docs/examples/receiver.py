import base64, hashlib, hmac, json, time, uuid, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

def sign(secret, id, stamp, body):
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id}.{stamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()

SECRET = open("approvals.secret").read().strip()
DECISION_SECRET = open("decisions.secret").read().strip()

def decide(request, decision, person, reason):
    body = json.dumps({
        "type": "lockgate.decision",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "data": {"request_id": request["request_id"], "command_digest": request["command_digest"],
                 "decision": decision, "reason": reason, "decided_by": {"id": person, "groups": ["dba"]}},
    }).encode()
    id, stamp = f"msg_{uuid.uuid4()}", str(int(time.time()))
    headers = {"content-type": "application/json", "webhook-id": id, "webhook-timestamp": stamp,
               "webhook-signature": sign(DECISION_SECRET, id, stamp, body)}
    urllib.request.urlopen(urllib.request.Request(request["decision_url"], body, headers))

class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        expected = sign(SECRET, self.headers["webhook-id"], self.headers["webhook-timestamp"], body)
        fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        genuine = any(hmac.compare_digest(expected, each) for each in self.headers["webhook-signature"].split(" "))
        self.send_response(204 if fresh and genuine else 401)
        self.end_headers()
        if not (fresh and genuine):
            return
        event = json.loads(body)
        if event["type"] == "lockgate.approval.requested":
            request = event["data"]
            print(request["identity"]["display"], "asks for", request["operation"]["statement"])
            decide(request, "approve", "ana@example.com", "looked at it")   # ask a person here

HTTPServer(("127.0.0.1", 9000), Hook).serve_forever()
