"""A QMP monitor that says what a test wants."""

import contextlib
import json
import os
import socket
import threading

GREETING = {"QMP": {"version": {"qemu": {"major": 9, "minor": 1, "micro": 0}}, "capabilities": []}}


class Monitor:
    """Serves one client in a thread; ``answers``: command -> what it returns, or a function."""

    def __init__(self, path, answers, greeting=GREETING) -> None:
        self.asked = []
        self.answers = {"qmp_capabilities": {}} | answers
        self.greeting = greeting
        self.path = os.fspath(path)
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(self.path)
        self.door.listen(1)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        try:
            while True:
                client, _ = self.door.accept()
                with client, contextlib.suppress(ConnectionError):
                    self.talk(client)
        except OSError:
            pass  # closed

    def talk(self, client) -> None:
        greeting = self.greeting
        client.sendall(greeting if isinstance(greeting, bytes) else line(greeting))
        for text in client.makefile("rb"):
            message = json.loads(text)
            name, arguments = message["execute"], message["arguments"]
            self.asked.append((name, arguments))
            answer = self.answers.get(name)
            if callable(answer):
                answer = answer(**{key.replace("-", "_"): n for key, n in arguments.items()})
            if isinstance(answer, bytes):
                client.sendall(answer)
            elif name not in self.answers:
                error = {"class": "CommandNotFound", "desc": f"The command {name} is not there"}
                client.sendall(line({"error": error}))
            elif isinstance(answer, LookupError):
                client.sendall(line({"error": {"class": "GenericError", "desc": str(answer)}}))
            else:
                client.sendall(line({"event": "STOP"}) + line({"return": answer}))

    def close(self) -> None:
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()
        self.thread.join(10)


def line(message) -> bytes:
    return json.dumps(message).encode() + b"\r\n"
